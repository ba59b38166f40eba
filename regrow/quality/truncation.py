r"""Whether a text breaks off: a model that learns from it learns to stop in the middle.

Nothing here knows where a text should have ended, so only signs that hardly occur at the end of a finished
one count: something opened that is not closed (a code fence, a formula, a bracket), a last character that
announces more (a comma, a hyphen), a last word that cannot be the last (an article, a conjunction), the bare
number of the next list item, prose whose last sentence has no end. The lack of a full stop alone is no sign:
lists, code, numbers, titles and hashtags have none.
"""

import re

# Words that are followed by another one, in any sentence. Prepositions are not among them ("turn it on"),
# nor is what ends a clause ("who we are"). Lower case only: "The answer is A".
_LEADING_WORDS = frozenset(
    {
        "a", "an", "the", "and", "or", "nor", "but", "because", "although", "unless", "whereas", "of", "into",
        "my", "your", "our", "their", "its", "whose", "every",
    }
)  # fmt: skip
# A short text that ends so is rather a fragment in its own right ("and", as an answer to "Which word ...?").
_FEWEST_WORDS = 12
_PAIRS = (("\\[", "\\]", "formula"), ("\\(", "\\)", "formula"), ("\\begin{", "\\end{", "formula"))
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)
_COMMENT_OR_CODE = re.compile(r"```|~~~")
_ITEM = re.compile(r"(?:(\d{1,2})[.)]|[-*•])\Z")
# A sentence ended on the last line, so the line is prose and the next one should have an end, too. Three letters:
# "Mr.", "Dr." and "St." end none.
_SENTENCES = re.compile(r"[^\W\d_]{3}[.!?][\"'\u201d\u2019)]*\s+(?=[\"'\u201c\u2018(]?[A-Z])")
_QUOTED = re.compile(r"[.!?][\"'\u201d\u2019]\s*[-\u2013\u2014]\s*[A-Z]")
_FINISHED = re.compile(r"[^\w\s%°]\Z")
_ADDRESS = re.compile(r"://|www\.|\S@\S")


def breaks_off(text: str) -> str | None:
    """Return by which sign a text breaks off, in words, or None when it looks finished."""
    text = text.rstrip().rstrip("\u200b\u2060\ufeff").rstrip()
    if not text:
        return None
    return _left_open(text) or _ends_badly(text)


def _left_open(text: str) -> str | None:
    if len(_FENCE.findall(text)) % 2:
        return "a code fence is left open"
    if "\\" in text and (what := _open_formula(text)):
        return what
    # Only the last bracket, and only when no sentence ends behind it: "1) ... 2) ..." and ":(" are fine.
    start = text.rfind("(")
    if start > 0 and text[start - 1] not in ":;=\\" and not _COMMENT_OR_CODE.search(text):
        rest = text[start + 1 :]
        if not re.search(r"[)\]\n]|[.!?\u2026\u3002\uff01\uff1f][\"'\u201d\u2019]?\Z", rest) and re.search(
            r"[^\W\d_]{2}", rest
        ):
            return "a bracket is left open"
    return None


def _open_formula(text: str) -> str | None:
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start >= 0 and not _closes(text, text.index("{", start)):
        return "\\boxed{ is left open"
    for opening, closing, what in _PAIRS:
        # \\[2pt] is the break of a line and no formula.
        if len(re.findall(rf"(?<!\\){re.escape(opening)}", text)) > len(
            re.findall(rf"(?<!\\){re.escape(closing)}", text)
        ):
            return f"a {what} ({opening}) is left open"
    # A lone dollar is a price; one with a command right behind it was a formula.
    last_line = text[text.rfind("\n") + 1 :]
    dollars = [match.start() for match in re.finditer(r"(?<!\\)\$", last_line)]
    if len(dollars) % 2 and re.search(r"\\[A-Za-z]|[\^_]\{", last_line[dollars[-1] :]):
        return "a formula ($) is left open"
    return None


def _closes(text: str, start: int) -> bool:
    depth = 0
    for char in text[start:]:
        depth += (char == "{") - (char == "}")
        if depth == 0:
            return True
    return False


def _ends_badly(text: str) -> str | None:
    last_line = text[text.rfind("\n") + 1 :].strip()
    words = last_line.split()
    if _ADDRESS.search(words[-1]):
        return None
    end = text[-1]
    if end in ",\uff0c\u3001" and not _closing_of_a_letter(text, last_line):
        return "the last character is a comma"
    if end in "([{" and not re.search(r"[:;]-?[(\[{]\Z", text):
        return "the last character is an opening bracket"
    if end in "-\u2010\u2013\u2014" and re.search(rf"[^\W\d_]{end}\Z|\w\s+{end}\Z", last_line):
        return "the last character is a hyphen"
    if len(words) == 1 and "\n" in text and _announces_an_item(text, words[0]):
        return "the last line is an empty list item"
    if words[-1] in _LEADING_WORDS and _runs_on(text, last_line):
        return f"the last word is {words[-1]!r}"
    if len(words) >= _FEWEST_WORDS and _open_sentence(last_line):
        return "the last sentence has no end"
    return None


def _open_sentence(line: str) -> bool:
    """Whether a line of prose stops within a sentence; marks of any kind at its end count as an end."""
    parts = _SENTENCES.split(line)
    words = parts[-1].split()
    if len(parts) == 1 or len(words) < 3 or _FINISHED.search(line) or _COMMENT_OR_CODE.search(line):
        return False
    # Hashtags and the name behind a quotation follow the last sentence.
    return not words[-1].startswith(("#", "@")) and not _QUOTED.search(line)


def _closing_of_a_letter(text: str, line: str) -> bool:
    """Whether the comma is that of "Best regards,", alone on the last line."""
    return "\n" in text and len(line.split()) <= 3 and line[0].isupper()


def _announces_an_item(text: str, word: str) -> bool:
    match = _ITEM.match(word)
    if match is None:
        return False
    before = text[: text.rfind("\n")]
    if match[1] is None:
        return re.search(rf"^\s*{re.escape(word)}\s+\S", before, re.MULTILINE) is not None
    return re.search(rf"^\s*{int(match[1]) - 1}{re.escape(word[-1])}\s+\S", before, re.MULTILINE) is not None


def _runs_on(text: str, line: str) -> bool:
    return len(text.split()) >= _FEWEST_WORDS and len(line.split()) > 1
