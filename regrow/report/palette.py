"""Colours, markers and dashes.

The colours are of Okabe and Ito's set where those have a contrast of 3 on white, and two dark ones. Any two can be told
apart with normal vision and with each kind of colour blindness (tests/report/test_palette.py measures it). In a grey
print, lines differ by marker and dashes, bars by their labels.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any, NamedTuple

BASE, PRUNED, MERGED = "#59626c", "#d55e00", "#009e73"
TUNED = ("#0072b2", "#cc79a7", "#4b0082", "#5c2a00")
# In the order in which decisions are stacked: rewritten first, then the reasons to keep the reference.
DECISIONS = (MERGED, PRUNED, "#cc79a7", "#0072b2", "#5c2a00", "#9aa3ad")
# On these, white letters could not be read.
_LIGHT = ("#cc79a7", "#9aa3ad")
_INK = "#1b1f24"
_CIRCLE = "M4.4 0A4.4 4.4 0 1 1-4.4 0A4.4 4.4 0 1 1 4.4 0Z"
# matplotlib's name of each marker, and its outline in a box from -6 to 6 (y downwards) for the page.
_MARKERS = {
    "o": _CIRCLE,
    "s": "M-4-4H4V4H-4Z",
    "^": "M0-5L5 4H-5Z",
    "D": "M0-5.4L5.4 0L0 5.4L-5.4 0Z",
    "v": "M0 5L5-4H-5Z",
    "P": "M-1.8-5H1.8V-1.8H5V1.8H1.8V5H-1.8V1.8H-5V-1.8H-1.8Z",
    "*": "M0-5.6L1.5-1.8H5.4L2.3 .7L3.4 4.6L0 2.3L-3.4 4.6L-2.3 .7L-5.4-1.8H-1.5Z",
    "X": "M0-2.2L2.4-4.8L4.8-2.4L2.2 0L4.8 2.4L2.4 4.8L0 2.2L-2.4 4.8L-4.8 2.4L-2.2 0L-4.8-2.4L-2.4-4.8Z",
}
_ORDER = "os^DvPX"
_DASHES: tuple[Any, ...] = (
    (0, ()),
    (0, (5, 2)),
    (0, (1.2, 1.6)),
    (0, (6, 2, 1.2, 2)),
    (0, (9, 2.5)),
    (0, (6, 1.6, 1.2, 1.6, 1.2, 1.6)),
    (0, (2.6, 1.4)),
)


class Style(NamedTuple):
    """How an arm or model looks in every plot and table of a page."""

    colour: str
    marker: str
    dashes: Any

    @property
    def outline(self) -> str:
        """The marker as an SVG path in a box from -6 to 6."""
        return _MARKERS[self.marker]


UNPRUNED = Style(_INK, "*", (0, ()))


def colours(names: Sequence[str]) -> dict[str, str]:
    """Return each model's colour: the same in every plot of a report."""
    tuned = cycle(TUNED)
    fixed = {"base": BASE, "pruned": PRUNED, "merged": MERGED}
    return {name: fixed.get(name) or next(tuned) for name in names}


def models(names: Sequence[str]) -> dict[str, Style]:
    """Return the style of each model of a run."""
    looks = _looks()
    return {name: Style(colour, *next(looks)) for name, colour in colours(names).items()}


def arms(names: Mapping[str, bool]) -> dict[str, Style]:
    """Return the style of each arm of a study.

    Args:
        names: by name, whether the arm is tuned; grey is for those that are not.
    """
    tuned, untuned = cycle((TUNED[0], PRUNED, MERGED, *TUNED[1:])), cycle((BASE,))
    looks = _looks()
    return {
        name: Style(next(tuned if is_tuned else untuned), *next(looks)) for name, is_tuned in names.items()
    }


def on(colour: str) -> str:
    """Return the colour of letters on a colour."""
    return _INK if colour in _LIGHT else "white"


def _looks() -> Iterator[tuple[str, Any]]:
    # One dash pattern more than a round of markers would repeat them together; after seven of both, pairs differ.
    number = 0
    while True:
        yield _ORDER[number % 7], _DASHES[(number + number // 7) % 7]
        number += 1
