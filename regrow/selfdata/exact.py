"""Exact numbers out of text: integers, decimals, thousands, fractions, mixed and LaTeX forms.

Nothing is rounded and nothing is cut: what is not a plain number (a range, a time, a root, a variable's
multiple) is not read as one.
"""

import re
from fractions import Fraction

_PLAIN = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_LATEX = r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]\s?)?\\?\$?\s?(?:"
    rf"(?:(?P<whole>\d+)\s*)?{_LATEX}"  # 3\frac{{1}}{{2}}
    rf"|(?P<mixed>\d+)\s+(?P<mn>\d+)\s?/\s?(?P<md>\d+)"  # 3 1/2
    rf"|(?P<n>{_PLAIN})\s?/\s?(?P<d>{_PLAIN})"  # 7/2
    rf"|(?P<base>{_PLAIN})\s*(?:\\times|\\cdot|[x\u00d7*])\s*10\s*\^\s*\{{?\s*(?P<power>-?\d{{1,3}})\s*\}}?"
    rf"|(?P<plain>{_PLAIN})(?:[eE](?P<exponent>[-+]?\d{{1,3}}))?"
    rf")"
)
# What may not stand right before or after a number: it would be part of something else.
_BAD_BEFORE = re.compile(r"(?:[\w.^_:/]|\d[-\u2013,]|[\^_]\{|sqrt\{|sqrt|√|[A-Za-z]-)$")
_BAD_AFTER = re.compile(
    r"[.,:/]?\d|\s?/\s?[\w\\]|[-\u2013]\s?\d|\s?\^|!|[xyznkπ](?![A-Za-z])|\s?(?:\\pi|\\sqrt|π|√)|(?:st|nd|rd|th)\b"
)


def find(text: str) -> list[tuple[Fraction, int, int]]:
    """Return every number in a text with the range of characters [start, end) it takes."""
    text = _plain_signs(text)
    found, at = [], 0
    while match := _NUMBER.search(text, at):
        at = max(match.end(), at + 1)
        start = match.start()
        # A minus after a word character is a dash or a subtraction, not a sign.
        if match["sign"] and start and re.match(r"[\w)}\]]", text[start - 1]) and match["sign"][0] == "-":
            if not match["sign"].endswith(" "):
                continue
            start += len(match["sign"])
            value = _value(match, signed=False)
        else:
            value = _value(match, signed=True)
        if value is None or _BAD_BEFORE.search(text[:start]) or _BAD_AFTER.match(text, match.end()):
            continue
        found.append((value, start, match.end()))
    return found


def parse(text: str) -> Fraction | None:
    """Return the number that a text is, or None when it is anything else.

    Currency and percent signs, thousands separators, LaTeX wrappers and a trailing unit or full stop do
    not count: "$1,234.50", "50%" and "72 clips." are 1234.5, 50 and 72.
    """
    text = re.sub(r"\\(?:text|mathrm|mbox|textbf)\s*\{([^{}]*)\}", r" \1", text)
    text = re.sub(r"\\[,!;: ()\[\]]|~|\*\*", "", text.replace("\\left", "").replace("\\right", ""))
    text = text.replace("\\%", "%").replace("\\$", "$").strip()
    text = re.sub(r"^(?:[A-Za-z]\s*=|=|\$|£|€)\s*", "", text.strip("$ ")).strip()
    numbers = find(text)
    if len(numbers) != 1 or numbers[0][1] != 0:
        return None
    rest = text[numbers[0][2] :]
    return numbers[0][0] if re.fullmatch(r"\s*[%°$€£]?\s*(?:[^\W\d_]+[\s./²³]*){0,4}", rest) else None


def _value(match: "re.Match[str]", *, signed: bool) -> Fraction | None:
    top, bottom = match[3], match[4]
    try:
        if top is not None:
            value = Fraction(int(match["whole"] or 0)) + Fraction(int(top), int(bottom))
        elif match["mixed"]:
            value = Fraction(int(match["mixed"])) + Fraction(int(match["mn"]), int(match["md"]))
        elif match["n"]:
            value = _decimal(match["n"]) / _decimal(match["d"])
        elif match["base"]:
            value = _decimal(match["base"]) * Fraction(10) ** int(match["power"])
        else:
            value = _decimal(match["plain"]) * Fraction(10) ** int(match["exponent"] or 0)
    except ZeroDivisionError:
        return None
    return -value if signed and match["sign"] and match["sign"][0] == "-" else value


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


def _plain_signs(text: str) -> str:
    # One character for one, so that ranges hold for the text as it was given.
    return text.translate({0x2212: "-", 0xFF0D: "-", 0x00A0: " ", 0x202F: " ", 0x2009: " "})
