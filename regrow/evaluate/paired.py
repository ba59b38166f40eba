"""Two models compared on the items that both answered.

Intervals and p-values of differences come from the paired bootstrap (`regrow.evaluate.resample`). Where items
are right or wrong, McNemar's exact test stands beside it: of the items that only one model solves, half
should be the one's if neither is better (McNemar, Psychometrika 12, 1947; exact: the binomial distribution).
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from regrow.evaluate.resample import DRAWS, are_paired, interval, p_value, resample
from regrow.evaluate.scores import Recovery, Scores, TaskScore, check_alike, recovery_of, score_pairs

ALPHA = 0.05
# With fewer items on which two models differ, the percentile interval is too narrow; the sign test is not.
_FEW = 10


class TaskComparison(BaseModel):
    """One task, two models."""

    model_config = ConfigDict(frozen=True)

    task: str = Field(description="name of the task")
    metric: str = Field(description="lm-eval's name of the metric and its filter")
    ours: float = Field(description="score of the model")
    theirs: float = Field(description="score of the reference")
    difference: float = Field(description="ours minus theirs")
    low: float | None = Field(description="2.5th percentile of the difference over bootstrap draws")
    high: float | None = Field(description="97.5th percentile")
    p_bootstrap: float | None = Field(description="two-sided p-value of no difference, paired bootstrap")
    p_mcnemar: float | None = Field(
        description="the same by McNemar's exact test; null where items are not 0 or 1"
    )
    ours_only: int = Field(description="items on which the model scores higher")
    theirs_only: int = Field(description="items on which the reference scores higher")
    samples: int = Field(description="number of items")
    detectable: float | None = Field(
        description="smallest true difference that this comparison finds with power 0.8 at level 0.05"
    )


class Comparison(BaseModel):
    """A model and a reference, over every task."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="the model")
    digest: str = Field(description="digest of its checkpoint")
    base: str = Field(description="the reference")
    base_digest: str = Field(description="digest of the reference")
    tasks: tuple[TaskComparison, ...] = Field(description="each task alone")
    samples: int = Field(description="number of items over all tasks")
    difference: float = Field(description="difference of the mean scores over tasks")
    low: float | None = Field(description="2.5th percentile of it over bootstrap draws")
    high: float | None = Field(description="97.5th percentile")
    p: float | None = Field(description="two-sided p-value of no difference of the means, paired bootstrap")
    detectable: float | None = Field(
        description="smallest true difference of the means that is found with power 0.8 at level 0.05"
    )
    recovery: Recovery | None = Field(
        description="ratio of means and mean of ratios; null where the reference scores 0 on every task"
    )
    result: Literal["better", "worse", "no difference", "unknown"] = Field(
        description="what the interval of the difference says"
    )
    verdict: str = Field(description="the result in words")
    draws: int = Field(description="bootstrap draws")
    seed: int = Field(description="their seed")


def compare(scores: Scores, base: Scores, *, draws: int = DRAWS, seed: int = 0) -> Comparison:
    """Compare a model with a reference, item by item.

    The uncertainty is that of the choice of items. Another seed of training moves scores as well.

    Args:
        scores: the model.
        base: the reference, evaluated with the same settings.
        draws: bootstrap draws.
        seed: seed of the draws.

    Raises:
        InputError: the two were not evaluated alike, or on no task.
    """
    check_alike(scores, base)
    pairs = score_pairs(scores, base)
    difference = scores.mean - base.mean
    drawn = resample(pairs, draws, seed)
    # Means of the same scores in another order differ in their last bits: zero must be zero.
    each = (drawn[..., 0] - drawn[..., 1]).round(12)
    means = each.mean(axis=1).round(12)
    known = all(are_paired(*pair) or None not in [one.stderr for one in pair] for pair in pairs)
    low, high = interval(means) if known else (None, None)
    p = p_value(means) if known else None
    tasks = tuple(
        _task(task, pair, each[:, i]) for i, (task, pair) in enumerate(zip(base.scores, pairs, strict=True))
    )
    samples = sum(task.samples for task in tasks)
    detectable = _detectable_mean(pairs)
    result = _result(low, high, tasks)
    return Comparison(
        name=scores.name,
        digest=scores.digest,
        base=base.name,
        base_digest=base.digest,
        tasks=tasks,
        samples=samples,
        difference=difference,
        low=low,
        high=high,
        p=p,
        detectable=detectable,
        recovery=recovery_of(scores, base, drawn) if base.mean else None,
        result=result,
        verdict=_verdict(result, samples, detectable),
        draws=draws,
        seed=seed,
    )


def _task(name: str, pair: tuple[TaskScore, TaskScore], drawn: object) -> TaskComparison:
    ours, theirs = pair
    paired = are_paired(ours, theirs)
    known = paired or (ours.stderr is not None and theirs.stderr is not None)
    changes = _changes(pair)
    wins, losses = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
    binary = paired and _is_binary(pair)
    low, high = interval(drawn) if known else (None, None)  # type: ignore[arg-type]
    return TaskComparison(
        task=name,
        metric=ours.metric,
        ours=ours.value,
        theirs=theirs.value,
        difference=ours.value - theirs.value,
        low=low,
        high=high,
        p_bootstrap=p_value(drawn) if known else None,  # type: ignore[arg-type]
        p_mcnemar=mcnemar(wins, losses) if binary else None,
        ours_only=wins,
        theirs_only=losses,
        samples=ours.samples,
        detectable=minimum_detectable(len(changes), _discordance(changes), binary=binary) if paired else None,
    )


def _changes(pair: tuple[TaskScore, TaskScore]) -> list[float]:
    return [a - b for a, b in zip(pair[0].items, pair[1].items, strict=True)] if are_paired(*pair) else []


def _is_binary(pair: tuple[TaskScore, TaskScore]) -> bool:
    return all(item in (0.0, 1.0) for one in pair for item in one.items)


def _discordance(changes: Sequence[float]) -> float:
    return sum(change * change for change in changes) / len(changes)


def _detectable_mean(pairs: Sequence[tuple[TaskScore, TaskScore]]) -> float | None:
    """Return the detectable difference of the mean over tasks: of as many items whose mean varies as much."""
    if not all(are_paired(*pair) for pair in pairs):
        return None
    items = sum(len(ours.items) for ours, _ in pairs)
    variance = sum(_discordance(_changes(pair)) / len(pair[0].items) for pair in pairs) / len(pairs) ** 2
    return minimum_detectable(items, variance * items, binary=all(_is_binary(pair) for pair in pairs))


def _result(
    low: float | None, high: float | None, tasks: Sequence[TaskComparison]
) -> Literal["better", "worse", "no difference", "unknown"]:
    if low is None or high is None:
        return "unknown"
    wins, losses = sum(task.ours_only for task in tasks), sum(task.theirs_only for task in tasks)
    paired = all(task.detectable is not None for task in tasks)
    if paired and wins + losses < _FEW and mcnemar(wins, losses) >= ALPHA:
        return "no difference"
    if low > 0:
        return "better"
    return "worse" if high < 0 else "no difference"


def _verdict(result: str, samples: int, detectable: float | None) -> str:
    if result == "unknown":
        return "unknown: a metric has neither scores per item nor a standard error"
    if result != "no difference":
        return result
    below = "" if detectable is None else f" (below {100 * detectable:.1f} points)"
    return f"no difference that {samples} items can see{below}"


def mcnemar(ours_only: int, theirs_only: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    Args:
        ours_only: items that only the one model solves.
        theirs_only: items that only the other solves.
    """
    discordant = ours_only + theirs_only
    tail = sum(math.comb(discordant, k) for k in range(min(ours_only, theirs_only) + 1))
    return min(1.0, 2 * tail / 2**discordant)


def minimum_detectable(
    samples: int, discordance: float, *, binary: bool = True, alpha: float = ALPHA, power: float = 0.8
) -> float | None:
    """Return the smallest true difference that a paired comparison finds.

    With d the difference, psi the discordance and n the items, the sample size formula of Connett, Smith and
    McHugh (Statistics in Medicine 6, 1987) solved for d:

        d * sqrt(n) = z(1 - alpha / 2) * sqrt(psi) + z(power) * sqrt(psi - d^2)

    Right or wrong answers cannot differ by more than they are discordant: where the formula asks for that,
    psi is raised to d, the case in which every change goes the same way.

    Args:
        samples: number of items.
        discordance: share of the items that only one of the models solves; for other scores the mean squared
            difference of an item.
        binary: whether items are 0 or 1.
        alpha: level of the two-sided test.
        power: probability of finding the difference.

    Returns:
        The difference, in the unit of the scores; none where other scores do not differ at all, or where no
        difference is large enough.
    """
    normal = NormalDist()
    test, found = normal.inv_cdf(1 - alpha / 2), normal.inv_cdf(power)

    def solve(psi: float) -> float:
        a = test * math.sqrt(psi / samples)
        b = found * found / samples
        # (d - a)^2 = b * (psi - d^2), the greater root.
        return (a + math.sqrt(max(0.0, a * a - (1 + b) * (a * a - b * psi)))) / (1 + b)

    difference = solve(discordance)
    if not binary:
        return difference or None
    if difference <= discordance and difference:
        return difference
    # With psi = d the root of what is below grows with d: halve the range.
    low, high = 0.0, 1.0
    if math.sqrt(samples) < test:
        return None
    while high - low > 1e-9:
        middle = (low + high) / 2
        short = math.sqrt(samples * middle) < test + found * math.sqrt(1 - middle)
        low, high = (middle, high) if short else (low, middle)
    return high


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several comparisons, so that the chance of any false one keeps its level.

    Holm's step-down method (Scandinavian Journal of Statistics 6, 1979): the smallest of m is multiplied by
    m, the next by m - 1, and none is smaller than the one before it.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted
