"""What a study found: every cell's evaluation, and what the cells of an arm say together.

Two kinds of chance move a score: which items were asked, and the seed of training. The interval of an arm's recovery
is taken over items, each with its mean over seeds (paired with the unpruned model, see regrow.evaluate.paired); the
standard deviation over seeds stands beside it.
"""

from collections.abc import Sequence
from functools import cached_property
from statistics import fmean, stdev
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from regrow.errors import InputError
from regrow.evaluate import Recovery, Scores, recovery_interval
from regrow.evaluate.drift import Drift
from regrow.evaluate.paired import Comparison, compare, holm
from regrow.files import canonical_digest
from regrow.study.spec import Cell
from regrow.tune.record import TuningRecord


class Outcome(BaseModel):
    """One cell and what became of it."""

    model_config = ConfigDict(frozen=True)

    cell: Cell
    scores: Scores
    drift: Drift | None = Field(None, description="against the unpruned model; null if it was not measured")
    tunings: tuple[TuningRecord, ...] = Field(
        (), description="its runs of training: none, one, or one a dataset"
    )

    @property
    def tokens(self) -> int:
        """Tokens trained on, prompts included."""
        return sum(int(one.summary["tokens"]) for one in self.tunings)

    @property
    def seconds(self) -> float:
        """Wall time of training."""
        return sum(float(one.summary["seconds"]) for one in self.tunings)


class Spread(BaseModel):
    """Mean and standard deviation over seeds."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    mean: float
    sd: float | None = Field(description="sample standard deviation; null for a single seed")

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Summarise the values of some seeds."""
        return cls(mean=fmean(values), sd=stdev(values) if len(values) > 1 else None)


class Row(BaseModel):
    """An arm at one block size and one size of the training set, over its seeds."""

    model_config = ConfigDict(frozen=True)

    blocks: int
    arm: str
    records: int | None
    seeds: tuple[int, ...] = Field(description="seeds that were run; empty for an untuned arm")
    parameters: int
    flops_per_token: int
    tasks: dict[str, Spread] = Field(description="score by task")
    mean: Spread = Field(description="mean score over tasks")
    recovery: Spread = Field(description="recovery of each seed's model")
    interval: Recovery = Field(description="recovery of the mean over seeds, with its interval over items")
    perplexity: Spread | None
    drift: dict[str, Spread] = Field(
        description="similarity, agreement, kl, ...: mean over prompts; empty if unmeasured"
    )
    tokens: Spread = Field(description="tokens trained on")
    seconds: Spread = Field(description="wall time of training")


class Pair(BaseModel):
    """Two arms at one block size and one size of the training set, by the same seeds and the same items."""

    model_config = ConfigDict(frozen=True)

    blocks: int
    records: int | None
    ours: str
    theirs: str
    by_seed: tuple[float, ...] = Field(description="difference of the mean scores, seed by seed")
    comparison: Comparison = Field(description="the mean over seeds of each item, compared")
    p: float | None = Field(
        description="p value of the difference, adjusted by Holm for all pairs of the study; null if unknown"
    )
    perplexity: float | None = Field(description="ratio of the mean perplexities, minus 1")

    @property
    def verdict(self) -> str:
        """Better, worse, or no difference that can be seen: p below 0.05 and every seed on one side."""
        if self.p is None:
            return "unknown"
        one_side = all(value > 0 for value in self.by_seed) or all(value < 0 for value in self.by_seed)
        if self.p >= 0.05 or not one_side:
            return "not significant"
        return "better" if self.comparison.difference > 0 else "worse"


class StudyResult(BaseModel):
    """A whole study."""

    model_config = ConfigDict(frozen=True, ignored_types=(cached_property,))

    base: Scores = Field(description="the unpruned model")
    outcomes: tuple[Outcome, ...]
    reference: str | None = Field(description="arm that the others are compared with")
    config: dict[str, Any] = Field(description="the study's parameters, with digests: what repeats it")

    @cached_property
    def rows(self) -> list[Row]:
        """Every arm at every size, in the order of the study."""
        return [self._row(group) for group in self._groups().values()]

    @cached_property
    def pairs(self) -> list[Pair]:
        """Every tuned arm against the reference, with p values adjusted for their number."""
        groups = self._groups()
        found: list[tuple[tuple[int, str, int | None], list[Outcome], list[Outcome]]] = []
        for key, ours in groups.items():
            blocks, arm, records = key
            theirs = groups.get((blocks, str(self.reference), records))
            if theirs is None or arm == self.reference or not ours[0].tunings:
                continue
            seeds = {one.cell.seed for one in ours} & {one.cell.seed for one in theirs}
            if seeds:
                own, other = ([one for one in group if one.cell.seed in seeds] for group in (ours, theirs))
                found.append((key, own, other))
        compared = [compare(pooled(_scores(own)), pooled(_scores(other))) for _, own, other in found]
        known = [one.p for one in compared if one.p is not None]
        adjusted = iter(holm(known))
        return [
            Pair(
                blocks=blocks,
                records=records,
                ours=arm,
                theirs=str(self.reference),
                by_seed=_differences(own, other),
                comparison=comparison,
                p=None if comparison.p is None else next(adjusted),
                perplexity=_ratio(own, other),
            )
            for ((blocks, arm, records), own, other), comparison in zip(found, compared, strict=True)
        ]

    def _groups(self) -> dict[tuple[int, str, int | None], list[Outcome]]:
        groups: dict[tuple[int, str, int | None], list[Outcome]] = {}
        for one in self.outcomes:
            groups.setdefault((one.cell.blocks, one.cell.arm, one.cell.records), []).append(one)
        return groups

    def _row(self, group: list[Outcome]) -> Row:
        cell, scores = group[0].cell, _scores(group)
        perplexities = [one.perplexity for one in scores if one.perplexity is not None]
        drifts = [_drift(one.drift) for one in group if one.drift is not None]
        return Row(
            blocks=cell.blocks,
            arm=cell.arm,
            records=cell.records,
            seeds=tuple(one.cell.seed for one in group if one.cell.seed is not None),
            parameters=scores[0].parameters,
            flops_per_token=scores[0].flops_per_token,
            tasks={task: Spread.of([one.scores[task].value for one in scores]) for task in self.base.scores},
            mean=Spread.of([one.mean for one in scores]),
            recovery=Spread.of([one.mean / self.base.mean for one in scores]),
            interval=recovery_interval(pooled(scores), self.base),
            perplexity=Spread.of(perplexities) if perplexities else None,
            drift={name: Spread.of([one[name] for one in drifts]) for name in (drifts[0] if drifts else {})},
            tokens=Spread.of([one.tokens for one in group]),
            seconds=Spread.of([one.seconds for one in group]),
        )


def gather(
    cells: Sequence[Cell],
    base: Scores,
    scores: Sequence[Scores],
    drifts: Sequence[Drift],
    tunings: Sequence[TuningRecord],
    *,
    reference: str | None,
    config: dict[str, Any],
) -> StudyResult:
    """Put a study together.

    Args:
        cells: what was run, in order.
        base: the unpruned model's scores.
        scores: of every cell, in the same order.
        drifts: of every cell, in the same order; empty if drift was not measured.
        tunings: every run of training; its `dataset` is the cell's key, and the dataset after a colon where
            there was one for each.
        reference: arm that the others are compared with.
        config: the study's parameters.

    Raises:
        InputError: no task was evaluated, or the unpruned model scores nothing.
    """
    if not base.scores or base.mean == 0:
        raise InputError("evaluation.tasks: a study needs a task that the unpruned model scores on; list one")
    runs: dict[str, list[TuningRecord]] = {}
    for one in tunings:
        runs.setdefault(one.dataset.partition(":")[0], []).append(one)
    return StudyResult(
        base=base,
        outcomes=tuple(
            Outcome(
                cell=cell,
                scores=scores[place],
                drift=drifts[place] if drifts else None,
                tunings=tuple(runs.get(cell.key, ())),
            )
            for place, cell in enumerate(cells)
        ),
        reference=reference,
        config=config,
    )


def pooled(runs: Sequence[Scores]) -> Scores:
    """Return the scores of some seeds as one: each item's score is its mean over them."""
    tasks = {}
    for task, first in runs[0].scores.items():
        items = tuple(fmean(column) for column in zip(*(run.scores[task].items for run in runs), strict=True))
        value = fmean(run.scores[task].value for run in runs)
        tasks[task] = first.model_copy(update={"items": items, "value": value, "stderr": None})
    digest = canonical_digest([run.digest for run in runs])
    return runs[0].model_copy(update={"scores": tasks, "digest": digest})


def _drift(drift: Drift) -> dict[str, float]:
    """The figures of the table: how far from the unpruned model, and how sound the answers are."""
    health = {name: getattr(drift.health, name) for name in ("repetition", "unfinished", "empty")}
    return {name: one.value for name, one in drift.estimates().items()} | health


def _scores(group: Sequence[Outcome]) -> list[Scores]:
    return [one.scores for one in group]


def _differences(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> tuple[float, ...]:
    by_seed = {one.cell.seed: one.scores.mean for one in theirs}
    return tuple(one.scores.mean - by_seed[one.cell.seed] for one in ours)


def _ratio(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> float | None:
    values = [[one.scores.perplexity for one in group] for group in (ours, theirs)]
    if any(value is None for group in values for value in group):
        return None
    first, second = (fmean(value for value in group if value is not None) for group in values)
    return first / second - 1
