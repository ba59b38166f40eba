"""Sets of blocks, neurons, groups or channels, written the way Python slices: `0:13,19:30` is 0 to 12 and 19 to 29.

A plan for a large model keeps hundreds of thousands of neurons; as ranges, people can still read which.
"""

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

_RANGES = re.compile(r"^\d+(:\d+)?(,\d+(:\d+)?)*$")


def parse_units(value: Any) -> tuple[int, ...]:
    """Return the numbers that a text such as "0:13,15,19:30" or a list of numbers names.

    Raises:
        ValueError: not in that form, an empty range, or numbers that do not rise.
    """
    if isinstance(value, str):
        text = value.replace(" ", "")
        if not _RANGES.match(text):
            raise ValueError(
                f"{value!r} is not a list of ranges; write START:STOP (half-open) or single numbers, such as 13:19,22"
            )
        numbers: list[int] = []
        for part in text.split(","):
            start, _, stop = part.partition(":")
            numbers.extend(range(int(start), int(stop) if stop else int(start) + 1))
            if stop and int(stop) <= int(start):
                raise ValueError(f"the range {part} is empty; the second number is the first one after it")
    elif isinstance(value, Iterable):
        numbers = list(value)
        if not all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in numbers):
            raise ValueError("expected whole numbers from 0 on")
    else:
        raise ValueError("expected ranges such as 13:19 or a list of numbers")
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise ValueError("the numbers must rise, each at most once")
    return tuple(numbers)


def format_units(numbers: Iterable[int]) -> str:
    """Return sorted numbers as half-open ranges; single ones stand alone.

    >>> format_units([0, 1, 2, 5, 7, 8])
    '0:3,5,7:9'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1]:
            parts[-1][1] += 1
        else:
            parts.append([number, number + 1])
    return ",".join(f"{start}:{stop}" if stop > start + 1 else str(start) for start, stop in parts)


Units = Annotated[
    tuple[int, ...], BeforeValidator(parse_units), PlainSerializer(format_units, return_type=str)
]
