"""The paired bootstrap: what the scores could have been with other questions of the same kind.

The items of each task are drawn again with replacement, as many as there are, and the same items for both
models (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 6 and 13): the models answered
the same questions and agree on most, so much of what luck adds to one score it adds to the other.

Drawing n of n items with replacement is drawing the counts of the distinct pairs of scores from a multinomial
distribution, which is the same thing without handling the items: right or wrong twice makes four pairs at
most, however many items there are.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRAWS = 10_000
# Counts that are held at once, 8 bytes each.
_HELD = 2**21


class Score(Protocol):
    """What a draw needs to know of a task's score."""

    @property
    def value(self) -> float:
        """The score."""

    @property
    def stderr(self) -> float | None:
        """Its standard error."""

    @property
    def items(self) -> tuple[float, ...]:
        """Each item's score."""


def are_paired(ours: Score, theirs: Score) -> bool:
    """Tell whether both have a score for each of the same items."""
    return bool(ours.items) and len(ours.items) == len(theirs.items)


def resample(
    pairs: Sequence[tuple[Score, Score]], draws: int = DRAWS, seed: int = 0
) -> "NDArray[np.float64]":
    """Draw the mean scores of two models on each task again.

    A task whose metric has no score per item is drawn from two independent normal distributions around the
    scores; without standard errors it keeps its scores.

    Args:
        pairs: the two models' scores of each task.
        draws: number of draws.
        seed: seed of the draws; each task has a stream of its own.

    Returns:
        Mean scores, shape (draws, tasks, 2).
    """
    import numpy as np

    drawn = np.empty((draws, len(pairs), 2))
    for place, (ours, theirs) in enumerate(pairs):
        random = np.random.default_rng([seed, place])
        if are_paired(ours, theirs):
            drawn[:, place] = _means(ours.items, theirs.items, draws, random)
        else:
            errors = [one.stderr or 0.0 for one in (ours, theirs)]
            drawn[:, place] = random.normal([ours.value, theirs.value], errors, (draws, 2))
    return drawn


def _means(
    ours: tuple[float, ...], theirs: tuple[float, ...], draws: int, random: "np.random.Generator"
) -> "NDArray[np.float64]":
    import numpy as np

    items = len(ours)
    # A pair of scores as one complex number: unique() sorts these many times faster than rows.
    distinct, counts = np.unique(np.array(ours) + 1j * np.array(theirs), return_counts=True)
    values = np.stack([distinct.real, distinct.imag], axis=1)
    step = max(1, _HELD // len(values))
    parts = [
        random.multinomial(items, counts / items, size=min(step, draws - begin)) @ values / items
        for begin in range(0, draws, step)
    ]
    return np.concatenate(parts)


def interval(drawn: "NDArray[np.float64]", level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of a drawn quantity; draws that are not numbers are left out."""
    import numpy as np

    tail = 50 * (1 - level)
    low, high = np.nanpercentile(drawn, [tail, 100 - tail])
    return float(low), float(high)


def p_value(drawn: "NDArray[np.float64]") -> float:
    """Return the two-sided p-value of "the difference is zero", shape of the argument (draws,).

    It is the level at which the percentile interval begins to hold zero, so that the two never contradict
    each other; a draw is added so that it is never 0.
    """
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(drawn) + 1))
