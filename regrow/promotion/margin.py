"""Non-inferiority: is a model worse than a reference by less than a margin, on the items that both answered?

The test is one-sided: the lower confidence bound of the difference of the mean scores must lie above minus the
margin. The bound comes from the paired bootstrap (`regrow.evaluate.resample`). When the models differ on few
items the bootstrap knows too little: two models that agree on all of 20 items may still differ by ten points in
truth, and its interval is a point. Then the bound of Agresti and Min (Statistics in Medicine 24, 2005) counts
as well, if it is lower: half an item is added to each of the four cells (both right, only ours, only theirs, both
wrong) before the normal interval is taken, which holds its level for small counts.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

from regrow.evaluate.resample import DRAWS, are_paired, resample
from regrow.evaluate.scores import TaskScore

# Fewer items than these on which the models differ are few.
_FEW = 10


def lower_bound(
    pairs: Sequence[tuple[TaskScore, TaskScore]], confidence: float, *, draws: int = DRAWS, seed: int = 0
) -> float | None:
    """Return the lower confidence bound of the difference of two models' mean scores over tasks.

    Args:
        pairs: score of the model and of the reference, task by task.
        confidence: one-sided, such as 0.95.
        draws: bootstrap draws.
        seed: their seed.

    Returns:
        The bound in units of the score; None where a task has neither scores per item nor standard errors.
    """
    import numpy as np

    if not all(are_paired(*pair) or None not in [one.stderr for one in pair] for pair in pairs):
        return None
    drawn = resample(pairs, draws, seed)
    means = (drawn[..., 0] - drawn[..., 1]).mean(axis=1)
    bound = float(np.percentile(means, 100 * (1 - confidence)))
    cells = [_cells(*pair) for pair in pairs]
    known = [one for one in cells if one is not None]
    if len(known) == len(pairs) and sum(wins + losses for wins, losses, _ in known) < _FEW:
        bound = min(bound, _agresti_min(known, confidence))
    return bound


def _cells(ours: TaskScore, theirs: TaskScore) -> tuple[int, int, int] | None:
    """Return the items that only ours solves, that only theirs solves, and all; None unless right or wrong."""
    if not are_paired(ours, theirs) or any(item not in (0.0, 1.0) for item in (*ours.items, *theirs.items)):
        return None
    both = list(zip(ours.items, theirs.items, strict=True))
    return sum(a > b for a, b in both), sum(a < b for a, b in both), len(both)


def _agresti_min(cells: Sequence[tuple[int, int, int]], confidence: float) -> float:
    difference = variance = 0.0
    for wins, losses, items in cells:
        n, b, c = items + 2, wins + 0.5, losses + 0.5
        difference += (b - c) / n
        variance += (b + c - (b - c) ** 2 / n) / n**2
    tasks = len(cells)
    return difference / tasks - NormalDist().inv_cdf(confidence) * math.sqrt(variance) / tasks
