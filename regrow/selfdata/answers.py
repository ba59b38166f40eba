"""Final answers: what a text says in the end, and whether two of them are the same.

The rule of self-data distillation rests on it: a rewrite is kept only where its final answer equals the
record's. So doubt counts as "no answer": a letter that may be an article, or two letters without a
verdict, is not read as a choice. Families: choice (a letter), math (an exact number or expression), text
(a phrase, normalised), open (nothing to compare).
"""

import re
import unicodedata
from fractions import Fraction

from regrow.errors import InputError
from regrow.selfdata import exact

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
_LINE_LABEL = re.compile(r"^\s*[*_\"']*(?:\(([A-J])\)|([A-J])[).:](?=\s|\*|$)|([A-J])\s*$)", re.MULTILINE)
_SENTENCE_END = re.compile(r"[.!?](?=\s+[A-Z(\"']|\s*$)|\n")
_ABBREVIATED = re.compile(r"(?:\b(?:St|Mr|Mrs|Ms|Dr|Mt|Jr|Sr|vs|No|Ft|Prof|Gen)|\b[A-Za-z])$")
_LAST_IS = re.compile(r"\b(?:is|are|was|were)\s*:?\s+(.+)$", re.IGNORECASE)


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

    Numbers are compared as exact fractions (3.50 = 7/2, 1,000 = 1000; 3.5 is neither 3 nor 35).
    """
    if family == "open":
        return True
    if a is None or b is None:
        return False
    if family == "choice":
        return _letter(a) is not None and _letter(a) == _letter(b)
    if family == "math":
        left, right = exact.parse(a), exact.parse(b)
        if left is not None or right is not None:
            return left == right
        return _latex(a) == _latex(b) != ""
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
    if (boxed := _boxed(text)) is not None:
        return boxed.strip() or None
    if marked := re.findall(r"####\s*([^\n]+)", text):
        return str(marked[-1]).strip()
    statements = list(_MATH_STATED.finditer(text))
    for statement in reversed(statements):
        said = _sentence(text[statement.end() :]).strip("*_ ")
        if said and (value := _number_said(said)):
            return value
    # A statement without a plain number ("3:30", "x + 1") is the answer all the same.
    if statements and (said := _sentence(text[statements[-1].end() :]).strip("*_$ ")):
        return said
    found = exact.find(text)
    return text[found[-1][1] : found[-1][2]].strip() if found else None


def _number_said(said: str) -> str | None:
    if "=" in said:
        said = said.rsplit("=", 1)[1].strip()
    if exact.parse(said) is not None:
        return said.rstrip(".")
    found = exact.find(said)
    if not found:
        return None
    # "72 clips in 2 months": the number that comes first; "half of 12, so 6": the only safe one is none.
    first = re.match(r"\W*(?:exactly|about|equal to|\\\()?\W*$", said[: found[0][1]])
    if first or len(found) == 1:
        return said[found[0][1] : found[0][2]].strip()
    return None


def _boxed(text: str) -> str | None:
    r"""Return what the last \boxed{...} holds, with its inner braces balanced."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    depth = 0
    for i in range(text.index("{", start), len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[text.index("{", start) + 1 : i]
    return None


def _latex(text: str) -> str:
    text = re.sub(r"\\(?:left|right|,|!|;|:|displaystyle)|[$\s]", "", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    return re.sub(r"\\(?:text|mathrm|mbox)\{([^{}]*)\}", r"\1", text).rstrip(".").casefold()


def _text(text: str) -> str | None:
    for statement in reversed(list(_TEXT_STATED.finditer(text))):
        if said := _sentence(text[statement.end() :]).strip(" *_\"'"):
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
