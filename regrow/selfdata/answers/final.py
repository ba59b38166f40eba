"""Final answers: what a text says in the end, and whether two of them are the same.

The rule of self-data distillation rests on it: a rewrite is kept only where its final answer equals the
record's. So doubt counts as "no answer": a letter that may be an article, two letters without a verdict,
"5 or 6" and "at least 5" are not read as answers. Families: choice (a letter), math (an exact number or an
expression), text (a phrase, normalised), open (nothing to compare).
"""

import re
import unicodedata
from fractions import Fraction

from regrow.errors import InputError
from regrow.selfdata.answers import exact, symbolic

# "<word> is", "<word> to the question is indeed", "**<word>:**", before the answer itself.
_VERDICT = (
    r"\b(?:WORDS)\b(?:\s+(?:to|for|of)\b[^.\n]{0,60}?)?\s*"
    r"(?:\*{0,2}\s*:|=|\bis\b(?:\s+(?:indeed|thus|therefore|then|definitely|clearly|actually|simply|just)\b,?)?\s*:?)"
)
_MATH_STATED = re.compile(_VERDICT.replace("WORDS", "answer|result|solution"), re.IGNORECASE)
_TEXT_STATED = re.compile(_VERDICT.replace("WORDS", "answer"), re.IGNORECASE)
_LETTER_STATED = re.compile(
    _VERDICT.replace("WORDS", "answer|option|choice")
    + r"[\s*_]*(?:the\s+)?(?:(?:letter|option|choice)\s+)?(?=(?P<mark>[^\n]{1,200}))",
    re.IGNORECASE,
)
_LETTER_JUDGED = re.compile(
    r"(?:\b(?:[Oo]ption|[Cc]hoice|[Ll]etter|[Aa]nswer)\s+[(\"'*]*|[(*\"'])(?P<letter>[A-J])[)\"'*.:]*"
    r"(?:\s+[^.\n]{0,80}?)?\s+is\s+(?:the\s+)?(?:correct|right|best)\b"
)
# A letter as a label: set apart by a mark, alone, or followed by a word that gives a reason.
_LABEL = re.compile(
    r"[*_`\"']*(?:"
    r"\(\s*(?P<round>[A-Ja-j])\s*\)"
    r"|(?P<closed>[A-Ja-j])\s*[)\]]"
    r"|(?P<bare>[A-J])(?:[.:,;*_`\"'!]|\s*$|\s+[-\u2013\u2014]|\s*\n|\s+(?=because\b|since\b|as\b|which\b|and\b|due\b))"
    r")"
)
_LINE_LABEL = re.compile(
    r"^\s*[*_\"']*(?:\(([A-J])\)|([A-J])[).:](?=\s|\*|$)|([A-J])[*_]*\s*$)", re.MULTILINE
)
_SENTENCE_END = re.compile(r"[.!?](?=\s+[A-Z(\"']|\s*$)|\n")
_ABBREVIATED = re.compile(r"(?:\b(?:St|Mr|Mrs|Ms|Dr|Mt|Jr|Sr|vs|No|Ft|Prof|Gen)|\b[A-Za-z])$")
# Only the last statements count, and an answer is no page: so reading stays linear in the text.
_STATEMENTS, _REACH = 20, 2_000
_MARKED = re.compile(r"####\s*([^\n]+)")
_ASKED = re.compile(r"[^.!?\n]*(?:\.\d[^.!?\n]*)*\?")
# "\boxed{1} or \boxed{2}" names no single answer.
_JOINED_BOX = re.compile(r"\}\s*\$?\s*(?:,|and|or)\s*\$?\s*$")
_NOT_BUT = re.compile(r"not\s+[^,]{1,40}?,?\s+but\s+(?:rather\s+)?(.+)", re.IGNORECASE | re.DOTALL)
# What may stand before the number of a statement: words, currency, brackets; no other operand.
_LEAD = re.compile(r"[A-Za-z\s\"'(\[$£€*:,\u2019\\-]*")
# Words that make the number after them a bound, a label or the wrong one.
_HEDGED = re.compile(
    r"\b(?:not|no|never|less|more|fewer|greater|least|most|over|under|above|below|between|either|up to|than|"
    r"except|without|step|question|part|option|equation|problem|case|line|example|figure|chapter|half|twice|"
    r"double|triple|minus|plus|times|from|was|were|would|maybe|perhaps|wrong|incorrect|"
    r"may|january|february|march|april|june|july|august|september|october|november|december)\b|n't\b",
    re.IGNORECASE,
)
# After the number: another one that belongs to it.
_GOES_ON = re.compile(
    r"\s*(?:\$|\\\))?\s*(?:[A-Za-z]+\s+){0,3}(?:and|or|to|through|but|plus|minus|times)\s+[-$£€\\(]*"
    r"(?:[\d.]|[dt]?frac|sqrt|pi\b)"
    r"|\s*(?:,|;|/|[-+*\u00d7\u2013\u00b1<>=:]|or\b|\\(?:pm|times|cdot|leq?|geq?|to|sqrt|pi)\b)\s*[-$£€\\(]*[\w\\]"
    r"|\s*\?"
)
# After an answer: it is taken back.
_RETRACTED = re.compile(
    r"\b(?:[Ww]ait|[Hh]old on|[Ss]cratch that|[Oo]ops|[Cc]orrection)\b\s*[,.:;!\u2014-]|\b[Aa]ctually\b|\bmistake\b|"
    r"\b(?:is|was|am|that's|it's) (?:wrong|incorrect|not right|not correct)\b|\bshould (?:be|have been)\b|"
    r"\bNo, "
)
_SEVERAL = re.compile(r"\b(?:and|or)\b|[,;<>\u2264\u2265]|\\[lg]eq?\b")
_SENTENCES = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(*\\$])|\n+")


def extract(text: str, family: str) -> str | None:
    """Return the final answer that a text states, or None when it states none clearly.

    Args:
        text: a whole response, or a bare answer.
        family: choice gives an upper-case letter A to J; math the characters of the number or
            expression; text the phrase; open always gives None.

    Raises:
        InputError: unknown family.
    """
    if family == "choice":
        return _choice(text)
    if family == "math":
        return _math(text)
    if family == "text":
        return _text(text)
    if family == "open":
        return None
    raise InputError(f"family: {family!r} is unknown; use choice, math, text or open")


def equal(a: str | None, b: str | None, family: str) -> bool:
    """Whether two final answers are the same; a missing answer equals nothing, except in open data.

    Numbers are compared as exact fractions (3.50 = 7/2, 1,000 = 1000; 3.5 is neither 3 nor 35), expressions
    and their lists, tuples, sets, intervals and matrices as `symbolic` says (x + 1 = 1 + x). A unit counts
    where both state one: 12 cm is 12, and not 12 m; 50% is 50, and not 0.5. Number words are no numbers:
    "twelve" is not 12. So equality is symmetric, and not transitive.
    """
    if family == "open":
        return True
    if a is None or b is None:
        return False
    if family == "choice":
        return _letter(a) is not None and _letter(a) == _letter(b)
    if family == "math":
        return symbolic.same(a, b)
    if family == "text":
        left, right = _pure_number(a), _pure_number(b)
        if left is not None and right is not None:
            return left == right
        return normalise(a) == normalise(b) != ""
    raise InputError(f"family: {family!r} is unknown; use choice, math, text or open")


def matches(response: str, answer: str | None, family: str) -> bool:
    """Whether a response ends in the record's answer; in open data every response does."""
    return family == "open" or equal(extract(response, family), answer, family)


def normalise(text: str) -> str:
    """Return a phrase without case, articles, outer marks and extra space.

    Signs that carry meaning stay: decimal points, minus signs before digits, + and #.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"[^\w\s.+#/%-]", " ", text.replace("_", " ").replace("'", "").replace("\u2019", ""))
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", " ", text)
    text = re.sub(r"-(?!\d)|(?<=[^\W\d])-|(?<!\d)/|/(?!\d)", " ", text)
    words = text.split()
    kept = [word for word in words if word not in ("a", "an", "the")]
    return " ".join(kept or words)


def _choice(text: str) -> str | None:
    stated = None
    for match in _LETTER_STATED.finditer(text):
        if label := _label(match["mark"]):
            stated = (match.start(), label)
    for match in _LETTER_JUDGED.finditer(text):
        if stated is None or match.start() > stated[0]:
            stated = (match.start(), match["letter"])
    if stated:
        return stated[1]
    # Labels inside prose ("adenine (A)") say nothing; a line that starts with one may be the answer, and
    # several such lines are a list of the options.
    letters = {next(filter(None, match.groups())) for match in _LINE_LABEL.finditer(text)}
    return letters.pop() if len(letters) == 1 else None


def _label(mark: str) -> str | None:
    match = _LABEL.match(mark)
    if match is None:
        return None
    # "The answer is A, B and C" names no single one.
    if match["bare"] and re.match(r"\s*(?:and|or|,)?\s*[B-J]\b(?![a-z'])", mark[match.end() :]):
        return None
    return (match["round"] or match["closed"] or match["bare"]).upper()


def _letter(answer: str) -> str | None:
    stripped = answer.strip().strip("().:*\"' ")
    if len(stripped) == 1 and stripped.upper() in "ABCDEFGHIJ":
        return stripped.upper()
    return _choice(answer)


def _math(text: str) -> str | None:
    """Return the answer that stands last among boxes, #### marks and statements; else the last number."""
    stated: list[tuple[int, str | None]] = [
        (match.start(1), match[1].strip()) for match in _MARKED.finditer(text)
    ]
    box = _boxed(text)
    if box is not None:
        stated.append(box)
    for match in list(_MATH_STATED.finditer(text))[-_STATEMENTS:]:
        rest = text[match.end() : match.end() + _REACH]
        said = _sentence(rest).strip("*_` ")
        if not said or _ASKED.match(rest) or "boxed" in said or "\\fbox" in said:
            continue
        value = _number_said(said)
        # Without a plain number ("3:30", "x + 1") it is the answer all the same, but a box before is clearer.
        if value or box is None or match.end() < box[0]:
            stated.append((match.end(), value or said.strip("$ ")))
    if not stated:
        return _last_number(text)
    at, value = max(stated, key=lambda one: one[0])
    return None if _RETRACTED.search(text, at) else value or None


def _number_said(said: str) -> str | None:
    """Return the number of a statement, None when it names none, several, or only a bound of one."""
    if match := _NOT_BUT.match(said):
        said = match[1]
    if "=" in said and not _SEVERAL.search(said.rsplit("=", 1)[0]):
        said = said.rsplit("=", 1)[1].strip()
    if exact.parse(said) is not None:
        return said.rstrip(".")
    found = exact.find(said)
    if not found or not _LEAD.fullmatch(said[: found[0][1]]) or _HEDGED.search(said[: found[0][1]]):
        return None
    # "72 clips in 2 months": the number that comes first; "half of 12, so 6": the only safe one is none.
    if said[found[0][1]] in "+-" and re.search(r"(?:^|\s)[A-Za-z]\s*$", said[: found[0][1]]):
        return None  # x + 1
    first = re.match(r"\W*(?:exactly|about|approximately|equal to|\\\()?\W*$", said[: found[0][1]])
    if _GOES_ON.match(said, found[0][2]) or not (first or len(found) == 1):
        return None
    return said[found[0][1] : found[0][2]].strip()


def _last_number(text: str) -> str | None:
    """Return the number of the last sentence that has one, None when that sentence has several."""
    for sentence in reversed(_SENTENCES.split(text)):
        found = exact.find(sentence)
        if not found:
            continue
        after = sentence.rfind("=")
        found = [one for one in found if one[1] > after]
        if len(found) > 1 and after >= 0 and not sentence[after + 1 : found[0][1]].strip(" $\\(*"):
            found = found[:1]
        if len(found) != 1 or _HEDGED.search(sentence[max(after, 0) : found[0][1]]):
            return None
        if _GOES_ON.match(sentence, found[0][2]):
            return None
        return sentence[found[0][1] : found[0][2]].strip()
    return None


def _boxed(text: str) -> tuple[int, str | None] | None:
    r"""Return what the last \boxed{...} holds and where; None where it never closes or is one of several."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    if _JOINED_BOX.search(text[max(0, start - 20) : start]):
        return start, None
    depth = 0
    opening = text.index("{", start)
    for i in range(opening, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return opening + 1, text[opening + 1 : i].strip()
    return start, None


def _text(text: str) -> str | None:
    for statement in list(_TEXT_STATED.finditer(text))[: -_STATEMENTS - 1 : -1]:
        if said := _sentence(text[statement.end() : statement.end() + _REACH]).strip(" *_\"'"):
            return said
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    # Without a statement, a single short line is a bare answer; prose is not.
    if len(lines) == 1 and len(lines[0].split()) <= 12:
        return lines[0].strip(" *_\"'").rstrip(".!") or None
    return None


def _sentence(text: str) -> str:
    """Return the text up to the end of its first sentence or line, without the final stop."""
    text = text.lstrip(" \t*_:").lstrip("\n")
    for match in _SENTENCE_END.finditer(text):
        if match[0] == "\n" or not (match[0] == "." and match.end() < len(text.rstrip())):
            return text[: match.start()].strip()
        if not _ABBREVIATED.search(text[: match.start()]):
            return text[: match.start()].strip()
    return text.strip()


def _pure_number(text: str) -> Fraction | None:
    found = exact.find(text)
    bare = text.strip().strip("\"'$%. ")
    return exact.parse(bare) if len(found) == 1 and re.fullmatch(r"[\d,./+\-\s\u2212]+", bare) else None
