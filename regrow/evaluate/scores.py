"""What an evaluation found, and how much of the unpruned model's quality it is.

Recovery is the mean score of a model over the mean score of the unpruned model, the mean taken over tasks
without weights, as in the paper (arXiv 2410.09982, section 4). Its uncertainty comes from the paired
bootstrap of `regrow.evaluate.resample`.
"""

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from regrow.errors import InputError
from regrow.evaluate.resample import DRAWS, are_paired, interval, resample


class TaskScore(BaseModel):
    """The score of one task."""

    model_config = ConfigDict(frozen=True)

    metric: str = Field(description="lm-eval's name of the metric and its filter")
    value: float = Field(description="the score, higher is better")
    stderr: float | None = Field(description="its standard error over items, as lm-eval gives it")
    samples: int = Field(description="number of items")
    items: tuple[float, ...] = Field(
        (), description="each item's score, in order; empty if the metric has none"
    )
    others: dict[str, float] = Field(
        default_factory=dict, description="every other metric of the task, with its filter"
    )
    questions: str = Field("", description="digest of the evaluated items, in order")
    version: str = Field("", description="version of the task in lm-eval")
    num_fewshot: int = Field(0, description="solved examples before each question")
    seconds: float = Field(0.0, description="time the task took when it was run, in seconds")


class Scores(BaseModel):
    """The evaluation of one model."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    name: str = Field(description="base, pruned, tuned-<dataset> or merged")
    digest: str = Field(description="digest of the checkpoint")
    parameters: int = Field(description="stored weights")
    flops_per_token: int = Field(description="floating-point operations per token, forward pass")
    perplexity: float | None = Field(
        description="perplexity; infinite for a ruined model, null if not measured"
    )
    perplexity_tokens: int = Field(description="tokens that the perplexity is a mean over")
    more_perplexities: dict[str, float] = Field(
        default_factory=dict, description="perplexity of further texts, by name"
    )
    scores: dict[str, TaskScore] = Field(description="score of each task, by name")
    settings: dict[str, Any] = Field(description="everything else that scores depend on")
    seconds: float = Field(description="time the evaluation took when it was run, in seconds")

    @property
    def mean(self) -> float:
        """Unweighted mean over tasks.

        Raises:
            InputError: no task was evaluated.
        """
        if not self.scores:
            raise InputError("evaluate.tasks: no task was evaluated, so there is no mean score")
        return sum(score.value for score in self.scores.values()) / len(self.scores)

    def summary(self) -> dict[str, Any]:
        """The model's entry in summary.json, without folder and recovery."""
        return {
            "name": self.name,
            "digest": self.digest,
            "parameters": self.parameters,
            "flops_per_token": self.flops_per_token,
            "perplexity": self.perplexity,
            "perplexity_tokens": self.perplexity_tokens,
            "more_perplexities": {
                name: value if math.isfinite(value) else None
                for name, value in self.more_perplexities.items()
            },
            "scores": {
                task: {
                    "value": score.value,
                    "stderr": score.stderr,
                    "samples": score.samples,
                    "metric": score.metric,
                    "others": score.others,
                }
                for task, score in self.scores.items()
            },
        }


class Recovery(BaseModel):
    """How much of the unpruned model's quality a model has."""

    model_config = ConfigDict(frozen=True)

    value: float = Field(description="mean score over the unpruned model's mean score")
    mean_of_ratios: float = Field(description="mean over tasks of score over the unpruned model's score")
    stderr: float | None = Field(description="standard deviation of `value` over bootstrap draws")
    low: float | None = Field(description="2.5th percentile of `value` over bootstrap draws")
    high: float | None = Field(description="97.5th percentile")
    mean_of_ratios_low: float | None = Field(
        None, description="2.5th percentile of `mean_of_ratios` over bootstrap draws"
    )
    mean_of_ratios_high: float | None = Field(None, description="97.5th percentile")
    method: Literal["paired bootstrap", "independent normal", "none"] = Field(
        description="paired bootstrap over items; independent normal where a metric has no score per item"
    )


def recovery(scores: Scores, base: Scores) -> float:
    """Return the mean score of a model over the mean score of the unpruned one.

    Raises:
        InputError: the two were not evaluated alike, or the unpruned model scores nothing.
    """
    check_alike(scores, base)
    if base.mean == 0:
        raise InputError("evaluate: the unpruned model scores 0 on every task; recovery has no meaning there")
    return scores.mean / base.mean


def recovery_interval(scores: Scores, base: Scores, *, draws: int = DRAWS, seed: int = 0) -> Recovery:
    """Return recovery with its uncertainty over the choice of items.

    It says nothing about other seeds of training, which move scores as well.

    Args:
        scores: the model.
        base: the unpruned model, evaluated with the same settings.
        draws: bootstrap draws.
        seed: seed of the draws.

    Raises:
        InputError: the two were not evaluated alike, or the unpruned model scores nothing.
    """
    check_alike(scores, base)
    return recovery_of(scores, base, resample(score_pairs(scores, base), draws, seed))


def score_pairs(scores: Scores, base: Scores) -> list[tuple[TaskScore, TaskScore]]:
    """Return the two models' scores of each task, in the order of the unpruned model's tasks."""
    return [(scores.scores[task], base.scores[task]) for task in base.scores]


def recovery_of(scores: Scores, base: Scores, drawn: Any) -> Recovery:
    """Return recovery with its uncertainty from draws of `resample`, shape (draws, tasks, 2).

    Raises:
        InputError: the two were not evaluated alike, or the unpruned model scores nothing.
    """
    import numpy as np

    value = recovery(scores, base)
    pairs = score_pairs(scores, base)
    ratios = [ours.value / theirs.value for ours, theirs in pairs if theirs.value]
    ratio = sum(ratios) / len(ratios)
    method: Literal["paired bootstrap", "independent normal", "none"] = "paired bootstrap"
    if not all(are_paired(*pair) for pair in pairs):
        known = all(are_paired(*pair) or None not in [one.stderr for one in pair] for pair in pairs)
        method = "independent normal" if known else "none"
    if scores.digest == base.digest or method == "none":
        return Recovery(value=value, mean_of_ratios=ratio, stderr=None, low=None, high=None, method="none")
    ours, theirs = drawn[..., 0], drawn[..., 1]
    sums = theirs.sum(axis=1)
    spread = ours.sum(axis=1) / np.where(sums == 0, np.nan, sums)
    # A task on which the unpruned model scores 0 in a draw has no ratio in it.
    solved = theirs != 0
    each = np.divide(ours, theirs, out=np.zeros_like(ours), where=solved)
    means = each.sum(axis=1) / np.where(solved.any(axis=1), solved.sum(axis=1), np.nan)
    low, high = interval(spread)
    mean_low, mean_high = interval(means)
    return Recovery(
        value=value,
        mean_of_ratios=ratio,
        stderr=float(np.nanstd(spread)),
        low=low,
        high=high,
        mean_of_ratios_low=mean_low,
        mean_of_ratios_high=mean_high,
        method=method,
    )


def check_alike(scores: Scores, base: Scores) -> None:
    """Make sure that two models answered the same questions with the same settings.

    Raises:
        InputError: they did not; the message says in what they differ.
    """
    if set(scores.scores) != set(base.scores):
        odd = sorted(set(scores.scores) ^ set(base.scores))[0]
        raise InputError(f"evaluate: {scores.name} and {base.name} differ in task {odd}; evaluate them alike")
    for key in sorted(set(scores.settings) | set(base.settings)):
        if scores.settings.get(key) != base.settings.get(key):
            raise InputError(f"evaluate: {scores.name} and {base.name} differ in {key}; evaluate them alike")
    for task, (ours, theirs) in zip(base.scores, score_pairs(scores, base), strict=True):
        for key in ("metric", "samples", "questions", "num_fewshot", "version"):
            if getattr(ours, key) != getattr(theirs, key):
                raise InputError(
                    f"evaluate: {scores.name} and {base.name} differ in {task}.{key}; evaluate them alike"
                )
