"""Exact numbers out of text: integers, decimals, thousands, fractions, mixed and LaTeX forms, with their units.

Nothing is rounded and nothing is cut: what is not a plain number (a range, a time, a root, a variable's
multiple, a word such as "twelve") is not read as one. Thousands stand in groups of three after a comma or a
space; a decimal comma is doubt and no number.
"""

import re
from fractions import Fraction
from typing import NamedTuple

# Longer digit runs are no answers, and Python itself refuses to read those over 4,300.
_DIGITS = 400
_WHOLE = r"\d{1,3}(?:,\d{3})+(?!,?\d)|\d{1,3}(?: \d{3})+(?! ?\d)|\d+"
_PLAIN = rf"(?:{_WHOLE})(?:\.\d+)?|\.\d+"
_LATEX = r"\\[dt]?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}"
_VULGAR = {
    "\u00bd": (1, 2),
    "\u00bc": (1, 4),
    "\u00be": (3, 4),
    "\u2153": (1, 3),
    "\u2154": (2, 3),
    "\u215b": (1, 8),
    "\u215c": (3, 8),
    "\u215d": (5, 8),
    "\u215e": (7, 8),
}
_NUMBER = re.compile(
    rf"(?P<sign>[-+]\s?)?(?:\\?[$£€]\s?)?(?:"
    rf"(?:(?P<whole>\d+)\s*)?{_LATEX}"  # 3\frac{{1}}{{2}}
    rf"|(?P<mixed>\d+)\s+(?P<mn>\d+)\s?/\s?(?P<md>\d+)"  # 3 1/2
    rf"|(?P<vw>\d+)?\s?(?P<vulgar>[{''.join(_VULGAR)}])"  # 3½
    rf"|(?P<n>{_PLAIN})\s?/\s?(?P<d>{_PLAIN})"  # 7/2
    rf"|(?P<base>{_PLAIN})\s*(?:\\times|\\cdot|[x\u00d7*])\s*10\s*\^\s*\{{?\s*(?P<power>-?\d{{1,3}})\s*\}}?"
    rf"|(?P<plain>{_PLAIN})(?:[eE](?P<exponent>[-+]?\d{{1,3}}))?"
    rf")"
)
_SUPERSCRIPTS = "\u00b2\u00b3\u00b9\u2070\u2074-\u2079"
# What may not stand right before or after a number: it would be part of something else.
_BAD_BEFORE = re.compile(r"(?:[\w.^_:/]|\d[-\u2013,]|[\^_]\{|sqrt\{|sqrt|√|[A-Za-z]-|\\pm\s?|±\s?)$")
_BAD_AFTER = re.compile(
    rf"[.,:/]?\d|\s?/\s?[\w\\]|[-\u2013]\s?\d|\s?\^|!|[xyznkπ](?![A-Za-z])|\s?[π√±\u00d7{_SUPERSCRIPTS}]"
    r"|\s?\\(?!text|mathrm|mbox|qquad|quad)[A-Za-z]+|(?:st|nd|rd|th)\b"
    r"|\.?\s?\\overline|\s[b-hj-zB-HJ-Z](?![\w.])(?<![mghlsL])|_|\s+(?:dozen|hundred|thousand|million|billion|trillion)s?\b"
    r"|\s+and\s+(?:(?:a|one|two|three)\s+(?:hal(?:f|ves)|thirds?|quarters?)|\d+\s?/\s?\d)"
)
_MAGNITUDES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
# "5 or more", "5 and a half", "5 dozen", "5 squared": these words change the value, so they are no unit.
_NO_UNIT = frozenset(_MAGNITUDES) | frozenset(
    re.findall(
        r"\w+",
        "and or plus minus over under half halves third thirds quarter quarters dozen dozens more less fewer at "
        "to least most not but squared cubed factorial mod modulo choose score pi hundreds thousands millions "
        "billions trillions if when unless except sin cos tan cot sec csc log ln exp sqrt",
    )
)
_UNIT_WORD = r"[^\W\d_]+(?:\s?\^\s?\{?\s?[23]\s?\}?|[²³])?"
_REST = re.compile(rf"(?P<gap>\s*)(?P<sign>[%°$€£\u00a2])?\s*(?P<words>(?:{_UNIT_WORD}[\s./]*){{0,4}})\.?")
# One name for each way to write a unit; other words stand for themselves, without a plural's s.
_UNITS = {
    name: unit
    for unit, names in {
        "%": "percent pct percentage",
        "$": "dollar usd buck",
        "\u20ac": "euro eur",
        "\u00a3": "gbp",
        "\u00a2": "cent",
        "°": "degree deg",
        "mm": "millimeter millimetre",
        "cm": "centimeter centimetre",
        "m": "meter metre",
        "km": "kilometer kilometre",
        "in": "inch inche",
        "ft": "foot feet",
        "yd": "yard",
        "mi": "mile",
        "g": "gram",
        "kg": "kilogram kilo",
        "lb": "pound lbs",
        "oz": "ounce",
        "l": "liter litre",
        "ml": "milliliter millilitre",
        "h": "hour hr hrs",
        "min": "minute mins",
        "s": "second sec secs",
        "": "unit",
    }.items()
    for name in names.split()
}
_KNOWN = frozenset(_UNITS) | frozenset(filter(None, _UNITS.values()))
_POWERS = str.maketrans({"²": "2", "³": "3"})


class Quantity(NamedTuple):
    """A number and the words of its unit, in their short form; no words where none is stated."""

    value: Fraction
    unit: tuple[str, ...]


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
        before = text[max(0, start - 8) : start]
        if value is None or _BAD_BEFORE.search(before) or _BAD_AFTER.match(text, match.end()):
            continue
        glued = re.compile(r"[A-Za-z]+").match(text, match.end())
        if glued and _short(glued[0]) not in _KNOWN:
            continue
        found.append((value, start, match.end()))
    return found


def parse(text: str) -> Fraction | None:
    """Return the number that a text is, or None when it is anything else.

    Currency and percent signs, thousands separators, LaTeX wrappers and a trailing unit or full stop do
    not count: "$1,234.50", "50%" and "72 clips." are 1234.5, 50 and 72.
    """
    quantity = read(text)
    return None if quantity is None else quantity.value


def read(text: str) -> Quantity | None:
    """Return the number that a text is, and its unit, or None when the text is anything else."""
    if len(text) > 4 * _DIGITS:
        return None
    text = _bare(text)
    currency = re.match(r"[-+]?\s?([$£€])", text)
    text = re.sub(r"^(?:[A-Za-z]\s*=|=)\s*|^[$£€]\s*(?=[-+\d.])", "", text).strip()
    factor, text = _magnitude(text)
    numbers = find(text)
    if len(numbers) != 1 or numbers[0][1] != 0:
        return None
    rest = _REST.fullmatch(text, numbers[0][2])
    words = [word.strip("./ ") for word in re.findall(_UNIT_WORD, rest["words"])] if rest else []
    if rest is None or _NO_UNIT & {word.casefold() for word in words}:
        return None
    # "2xy", "2 x" and "5a" are multiples of variables; "5 m" and "12cm" are lengths.
    if words and not rest["sign"] and (not rest["gap"] or len(words[0]) < 3):
        short = _short(words[0])
        if short.rstrip("23") not in _KNOWN or (not rest["gap"] and len(short.rstrip("23")) < 2):
            return None
    sign = currency[1] if currency else rest["sign"]
    return Quantity(numbers[0][0] * factor, _unit(([sign] if sign else []) + words))


def same_unit(left: tuple[str, ...], right: tuple[str, ...]) -> bool:
    """Whether two units do not contradict each other: one says nothing, or more of the same."""
    shorter = min(len(left), len(right))
    return left[:shorter] == right[:shorter]


def split_unit(text: str) -> tuple[str, tuple[str, ...]]:
    r"""Take a known unit off the end of an expression: 3\sqrt{2} cm is 3\sqrt{2} with the unit cm."""
    match = re.fullmatch(
        rf"(?P<body>.*[^\sA-Za-z\\].*?)(?:\s+|(?<=[\d}})\]]))(?P<unit>(?:square\s+|cubic\s+|sq\s+)?{_UNIT_WORD})\.?",
        text,
        re.DOTALL,
    )
    if match is None or not any(_short(word) in _KNOWN for word in re.findall(r"[^\W\d_]+", match["unit"])):
        return text, ()
    # A single letter after a root or a fraction is a variable, not metres.
    if len(match["unit"]) == 1:
        return text, ()
    return match["body"].strip(), _unit(re.findall(_UNIT_WORD, match["unit"]))


def _bare(text: str) -> str:
    text = _plain_signs(text)
    text = re.sub(r"\\(?:text|mathrm|mbox|textbf|textit|rm)\s*\{([^{}]*)\}", r" \1", text)
    text = re.sub(r"\{,\}|(?<=\d)\\[!,](?=\d{3})", ",", text)
    text = re.sub(r"\\[,!;: ()\[\]]|~|\*\*", "", text.replace("\\left", "").replace("\\right", ""))
    text = re.sub(r"\s?\^\s?\{?\s?\\circ\s?\}?", "°", text)
    text = text.replace("\\%", "%").replace("\\$", "$").strip()
    # Dollars around the whole are LaTeX's; one in front is money.
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text.strip("$")
    return text.strip().removesuffix("$") if text.count("$") > 1 else text.strip()


def _magnitude(text: str) -> tuple[int, str]:
    match = re.match(rf"(?P<head>[-+$£€\d.,\s]*\d)\s+(?P<word>{'|'.join(_MAGNITUDES)})\b", text)
    if match is None:
        return 1, text
    return _MAGNITUDES[match["word"]], match["head"] + text[match.end() :]


def _unit(words: list[str]) -> tuple[str, ...]:
    short = [_short(word) for word in words if word]
    if len(short) > 1 and short[0] in ("square", "sq", "cubic"):
        short = [short[1] + ("3" if short[0] == "cubic" else "2"), *short[2:]]
    return tuple(word for word in short if word)


def _short(word: str) -> str:
    word = re.sub(r"[\s^{}]", "", word.casefold().translate(_POWERS))
    name, power = (word[:-1], word[-1]) if word[-1:] in ("2", "3") else (word, "")
    singular = name[:-1] if len(name) > 3 and name.endswith("s") and not name.endswith("ss") else name
    return _UNITS.get(name, _UNITS.get(singular, singular)) + power


def _value(match: "re.Match[str]", *, signed: bool) -> Fraction | None:
    top, bottom = match[3], match[4]
    if match.end() - match.start() > _DIGITS:
        return None
    try:
        if top is not None:
            value = Fraction(int(match["whole"] or 0)) + Fraction(int(top), int(bottom))
            if match["whole"] and top.startswith("-"):
                return None
        elif match["mixed"]:
            value = Fraction(int(match["mixed"])) + Fraction(int(match["mn"]), int(match["md"]))
        elif match["vulgar"]:
            value = Fraction(int(match["vw"] or 0)) + Fraction(*_VULGAR[match["vulgar"]])
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
    return Fraction(text.replace(",", "").replace(" ", ""))


def _plain_signs(text: str) -> str:
    # One character for one, so that ranges hold for the text as it was given.
    return text.translate({0x2212: "-", 0xFF0D: "-", 0x00A0: " ", 0x202F: " ", 0x2009: " "})
