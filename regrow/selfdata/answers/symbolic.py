"""Whether two mathematical answers that are no plain numbers are the same.

The shape is read here and must be the same on both sides: a list, tuple, interval, set, matrix, union or
equation. Only the parts in it, numbers and expressions, are compared by value (`exact`, `algebra`). A bare
list and a tuple keep their order, a set in braces has none; (0, 1) and [0, 1], and a list and a set, differ.
"""

import re
from collections.abc import Callable
from fractions import Fraction

from regrow.selfdata.answers import algebra, exact

LONGEST = 1_000  # characters of an answer; longer ones are compared as they stand
# Deeper nesting is no answer.
_DEPTH = 6
_SIGNS = str.maketrans(
    {
        "\u2212": "-",
        "\u2013": "-",
        "\u00d7": r"\times ",
        "\u00b7": r"\cdot ",
        "\u00f7": r"\div ",
        "\u221e": r"\infty ",
        "\u222a": r"\cup ",
        "\u2229": r"\cap ",
        "\u2264": r"\leq ",
        "\u2265": r"\geq ",
        "\u2260": r"\neq ",
        "\u00b1": r"\pm ",
        "\u03c0": r"\pi ",
        "\u221a": r"\sqrt ",
        "\u03b8": r"\theta ",
        "\u00b0": r"^\circ ",
        "\u2205": r"\emptyset ",
    }
)
_SUPERSCRIPT = re.compile("[\u207b\u00b9\u00b2\u00b3\u2070\u2074-\u2079]+")
_PLAIN = str.maketrans("\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079", "-0123456789")
_WORDS = re.compile(r"(?<![\\A-Za-z])[^\W\d_]{2,}")
_RELATION = re.compile(r"<=|>=|[<>=]|\\(?:leq?|geq?|neq?)(?![A-Za-z])")
_MATRIX = re.compile(r"\\begin\{([bp]?matrix|array)\}(?:\{[clr|]*\})?(.*)\\end\{\1\}", re.DOTALL)
_OPEN, _CLOSE = "([{", ")]}"


def same(left: str, right: str) -> bool:
    """Whether two answers are the same mathematics; doubt is no."""
    if max(len(left), len(right)) > LONGEST:
        return left.strip() == right.strip()
    one, other = exact.read(left), exact.read(right)
    left, right = tidy(left), tidy(right)
    if one and other and not _two_names(left, right):
        return _same_quantity(one, other)
    return bool(left and right) and _same(left, right, _DEPTH)


def tidy(text: str) -> str:
    """Return an answer without marks that carry no meaning: wrappers, spacing commands, the full stop."""
    text = text.strip().translate(_SIGNS)
    text = _SUPERSCRIPT.sub(lambda match: "^{" + match[0].translate(_PLAIN) + "}", text)
    text = re.sub(r"\\(?:displaystyle|limits|bigl?|bigr?|Bigl?|Bigr?|left|right)(?![A-Za-z])", "", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text).replace(r"\colon", ":").replace("**", "")
    text = re.sub(r"\\(?:text|mathrm|mbox|textbf|mathbf|textit|operatorname)\s*\{([^{}]*)\}", r" \1 ", text)
    text = re.sub(r"[\s$]+and[\s$]+", ", ", text)
    text = re.sub(r"\{,\}", ",", text).replace("\\\\", "\0")  # rows of a matrix
    text = re.sub(r"\\[,;:! ()\[\]]|\\q?quad(?![A-Za-z])|~|(?<!\\)\$", " ", text).replace("\0", "\\\\")
    text = text.replace(r"\dots", "...").replace(r"\ldots", "...").replace(r"\cdots", "...")
    # A space means something between letters or digits only.
    text = re.sub(r"(?<![^\W_])\s+|\s+(?![^\W_])", lambda match: _gap(match, text), text)
    return " ".join(text.split()).rstrip(".").strip()


def _gap(match: "re.Match[str]", text: str) -> str:
    before, after = text[: match.start()], text[match.end() :]
    # After a command's name a space ends the name.
    return " " if re.search(r"\\[A-Za-z]+$", before) and after[:1].isalpha() else ""


def _same(left: str, right: str, depth: int) -> bool:
    if not depth or not left or not right:
        return False
    if _literally(left) == _literally(right):
        return True
    one, other = exact.read(left), exact.read(right)
    if one and other and not _two_names(left, right):
        return _same_quantity(one, other)

    def deeper(a: str, b: str) -> bool:
        return _same(a, b, depth - 1)

    for shape in (_assigned, _union, _sequence, _enclosed, _matrix, _plus_minus):
        verdict = shape(left, right, deeper)
        if verdict is not None:
            return verdict
    return _scalar(left, right)


def _same_quantity(left: exact.Quantity, right: exact.Quantity) -> bool:
    return left.value == right.value and exact.same_unit(left.unit, right.unit)


def _two_names(left: str, right: str) -> bool:
    names = _assignment(left)[0], _assignment(right)[0]
    return all(names) and names[0] != names[1]


Deeper = Callable[[str, str], bool]


def _literally(text: str) -> str:
    # Words have no case; variables do. {2} is 2 after a sign that takes one.
    text = re.sub(r"([\^_])\{(\w)\}", r"\1\2", text)
    text = re.sub(r"\\sqrt\s*(\w)", r"\\sqrt{\1}", text)
    return text.casefold() if _WORDS.search(text) else text


def _assigned(left: str, right: str, deeper: Deeper) -> bool | None:
    """Whether x = 5 is 5, and not y = 5."""
    names, bodies = zip(*map(_assignment, (left, right)), strict=True)
    if not any(names) or _top_commas(left) or _top_commas(right):
        return None
    if all(names):
        return deeper(*bodies) if names[0] == names[1] else None
    other = right if names[0] else left
    return None if _RELATION.search(other) else deeper(*bodies)


def _assignment(text: str) -> tuple[str, str]:
    match = re.fullmatch(
        r"(?P<name>[A-Za-z]|[a-z]\([a-z]\)|\\(?:theta|alpha|beta|lambda))\s*=\s*(?P<body>.+)", text
    )
    if match is None or _RELATION.search(match["body"]):
        return "", text
    return match["name"], match["body"]


def _union(left: str, right: str, deeper: Deeper) -> bool | None:
    parts = [re.split(r"\\cup(?![A-Za-z])", side) for side in (left, right)]
    if len(parts[0]) == len(parts[1]) == 1:
        return None
    return _in_any_order([part.strip() for part in parts[0]], [part.strip() for part in parts[1]], deeper)


def _sequence(left: str, right: str, deeper: Deeper) -> bool | None:
    parts = _split(left), _split(right)
    if len(parts[0]) == len(parts[1]) == 1:
        return None
    return len(parts[0]) == len(parts[1]) and all(map(deeper, *parts))


def _enclosed(left: str, right: str, deeper: Deeper) -> bool | None:
    one, other = _inside(left), _inside(right)
    if one is None and other is None:
        return None
    if one is None or other is None:
        # (x + 1) is x + 1, but [1] is not 1.
        (kind, body), plain = (one, right) if one else (other or ("", ""), left)
        return kind == "()" and not _top_commas(body) and deeper(body, plain)
    if one[0] != other[0]:
        return False
    if one[0] == "{}":
        return _in_any_order(_split(one[1]), _split(other[1]), deeper)
    return deeper(one[1], other[1])


def _matrix(left: str, right: str, deeper: Deeper) -> bool | None:
    cells = [_cells(side) for side in (left, right)]
    if cells[0] is None and cells[1] is None:
        return None
    if cells[0] is None or cells[1] is None or list(map(len, cells[0])) != list(map(len, cells[1])):
        return False
    return all(all(map(deeper, *rows)) for rows in zip(*cells, strict=True))


def _cells(text: str) -> list[list[str]] | None:
    match = _MATRIX.fullmatch(text)
    if match is None:
        return None
    rows = [row for row in match[2].split("\\\\") if row.strip()]
    return [[cell.strip() for cell in row.split("&")] for row in rows]


def _plus_minus(left: str, right: str, deeper: Deeper) -> bool | None:
    counts = [len(re.findall(r"\\pm(?![A-Za-z])", side)) for side in (left, right)]
    if counts == [0, 0]:
        return None
    if counts != [1, 1]:
        return False
    return all(deeper(*(re.sub(r"\\pm\s*", sign, side) for side in (left, right))) for sign in "+-")


def _scalar(left: str, right: str) -> bool:
    (left, unit), (right, other) = exact.split_unit(left), exact.split_unit(right)
    if not exact.same_unit(unit, other):
        return False
    values = [None if _assignment(side)[0] else _repeating(side) for side in (left, right)]
    if None not in values:
        return values[0] == values[1]
    left, right = (_as_fraction(side, value) for side, value in zip((left, right), values, strict=True))
    return algebra.same(left, right)


def _repeating(text: str) -> Fraction | None:
    r"""Read a number, also with a repeating part: 0.1\overline{6} is 1/6."""
    match = re.fullmatch(r"(-?)(\d*)\.(\d*)\\overline\{(\d+)\}", text)
    if match is None:
        return exact.parse(text)
    if len(text) > algebra.LONGEST:
        return None
    sign, whole, head, tail = match.groups()
    value = Fraction(int(f"{whole}{head}{tail}") - int(f"{whole}{head}" or 0)) / (
        10 ** len(head) * (10 ** len(tail) - 1)
    )
    return -value if sign else value


def _as_fraction(text: str, value: Fraction | None) -> str:
    if value is None:
        return text
    sign = "-" if value < 0 else ""
    return (
        f"{sign}{abs(value.numerator)}"
        if value.denominator == 1
        else (rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}")
    )


def _in_any_order(left: list[str], right: list[str], deeper: Deeper) -> bool:
    if len(left) != len(right):
        return False
    rest = list(right)
    for one in left:
        found = next((other for other in rest if deeper(one, other)), None)
        if found is None:
            return False
        rest.remove(found)
    return True


def _top_commas(text: str) -> bool:
    return len(_split(text)) > 1


def _split(text: str) -> list[str]:
    """Split at the commas that stand outside all brackets."""
    if _MATRIX.search(text):
        return [text]
    parts, level, start, at = [], 0, 0, 0
    while at < len(text):
        sign = text[at]
        level += (sign in _OPEN) - (sign in _CLOSE)
        joint = re.compile(r",\s*(?:and\s)?").match(text, at) if level == 0 else None
        if joint is None:
            at += 1
            continue
        parts.append(text[start:at].strip())
        start = at = joint.end()
    return [*parts, text[start:].strip()]


def _inside(text: str) -> tuple[str, str] | None:
    """Return the kind of brackets around a whole text, and what they hold."""
    text = text.replace(r"\{", "{").replace(r"\}", "}") if text.startswith(r"\{") else text
    if len(text) < 2 or text[0] not in _OPEN or text[-1] not in _CLOSE:
        return None
    level = 0
    for at, sign in enumerate(text):
        level += (sign in _OPEN) - (sign in _CLOSE)
        if level == 0 and at < len(text) - 1:
            return None
    return text[0] + text[-1], text[1:-1].strip()
