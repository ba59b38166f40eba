"""What an evaluation found, and how much of the unpruned model's quality it is.

Recovery is the mean score of a model over the mean score of the unpruned model, the mean taken over tasks
without weights, as in the paper (arXiv 2410.09982, section 4). Its uncertainty comes from a paired
bootstrap: the items of every task are drawn again with replacement, the same items for both models, since
both answered the same questions and agree on most of them.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from regrow.errors import InputError


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
            "scores": {
                task: {
                    "value": score.value,
                    "stderr": score.stderr,
                    "samples": score.samples,
                    "metric": score.metric,
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
    method: Literal["paired bootstrap", "independent normal", "none"] = Field(
        description="paired bootstrap over items; independent normal where a metric has no score per item"
    )


def recovery(scores: Scores, base: Scores) -> float:
    """Return the mean score of a model over the mean score of the unpruned one.

    Raises:
        InputError: the two were not evaluated alike, or the unpruned model scores nothing.
    """
    _alike(scores, base)
    if base.mean == 0:
        raise InputError("evaluate: the unpruned model scores 0 on every task; recovery has no meaning there")
    return scores.mean / base.mean


def recovery_interval(scores: Scores, base: Scores, *, draws: int = 2000, seed: int = 0) -> Recovery:
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
    import numpy as np

    value = recovery(scores, base)
    pairs = [(scores.scores[task], base.scores[task]) for task in base.scores]
    ratios = [ours.value / theirs.value for ours, theirs in pairs if theirs.value]
    random = np.random.default_rng(seed)
    paired = all(ours.items and len(ours.items) == len(theirs.items) for ours, theirs in pairs)
    known = all(one.stderr is not None for pair in pairs for one in pair)
    method: Literal["paired bootstrap", "independent normal", "none"]
    if scores.digest == base.digest or not (paired or known):
        method = "none"
        drawn = np.full((1, 2), [scores.mean, base.mean])
    elif paired:
        method = "paired bootstrap"
        drawn = np.zeros((draws, 2))
        for ours, theirs in pairs:
            items = np.array([ours.items, theirs.items], dtype=np.float64).T
            for i in range(draws):
                drawn[i] += items[random.integers(0, len(items), len(items))].mean(axis=0) / len(pairs)
    else:
        method = "independent normal"
        means = np.array([[one.value for one in pair] for pair in pairs])
        errors = np.array([[one.stderr or 0.0 for one in pair] for pair in pairs])
        drawn = random.normal(means, errors, (draws, *means.shape)).mean(axis=1)
    spread = drawn[:, 0] / np.where(drawn[:, 1] == 0, np.nan, drawn[:, 1])
    known = method != "none"
    return Recovery(
        value=value,
        mean_of_ratios=sum(ratios) / len(ratios),
        stderr=float(np.nanstd(spread)) if known else None,
        low=float(np.nanpercentile(spread, 2.5)) if known else None,
        high=float(np.nanpercentile(spread, 97.5)) if known else None,
        method=method,
    )


def _alike(scores: Scores, base: Scores) -> None:
    if set(scores.scores) != set(base.scores):
        odd = sorted(set(scores.scores) ^ set(base.scores))[0]
        raise InputError(f"evaluate: {scores.name} and {base.name} differ in task {odd}; evaluate them alike")
    for key in sorted(set(scores.settings) | set(base.settings)):
        if scores.settings.get(key) != base.settings.get(key):
            raise InputError(f"evaluate: {scores.name} and {base.name} differ in {key}; evaluate them alike")
