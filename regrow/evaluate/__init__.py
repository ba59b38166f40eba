"""Evaluation: lm-eval tasks, perplexity, cost and recovery, with the same settings for every model.

`evaluate` keeps each task's result in a cache under the checkpoint's digest and everything the result
depends on, so that a killed run continues with the next task and a model seen before costs nothing.
"""

import logging
import math
import time
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.checkpoint import Checkpoint
from regrow.evaluate import kept
from regrow.evaluate.against import Measures, evaluate_against, measure_costs
from regrow.evaluate.cost import Cost, cost
from regrow.evaluate.drift import Drift
from regrow.evaluate.health import Health
from regrow.evaluate.live import Live
from regrow.evaluate.perplexity import Perplexity, perplexity
from regrow.evaluate.scores import Recovery, Scores, TaskScore, recovery, recovery_interval
from regrow.evaluate.spec import AnswersSpec, DraftSpec, EvaluateSpec, SpeedSpec, TaskSpec
from regrow.evaluate.speculative import Speculation
from regrow.evaluate.speed import Speed
from regrow.evaluate.tasks import local_sets
from regrow.evaluate.texts import task_texts
from regrow.files import canonical_digest
from regrow.source import TextSpec

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "AnswersSpec",
    "Cost",
    "DraftSpec",
    "Drift",
    "EvaluateSpec",
    "Health",
    "Measures",
    "Perplexity",
    "Recovery",
    "Scores",
    "Speculation",
    "Speed",
    "SpeedSpec",
    "TaskScore",
    "TaskSpec",
    "cost",
    "evaluate",
    "evaluate_against",
    "measure_costs",
    "perplexity",
    "recovery",
    "recovery_interval",
    "task_texts",
]

log = logging.getLogger(__name__)
# Changes when results in older caches would no longer be what this code finds.
_FORMAT = 2


class _TimedPerplexity(Perplexity):
    seconds: float


class _Live(Live):
    """The model as tasks and texts need it."""

    def __init__(self, checkpoint: Checkpoint, spec: EvaluateSpec) -> None:
        super().__init__(checkpoint, spec.dtype)
        self._spec = spec

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        if self._spec.chat_template:
            return self.checkpoint.chat_tokenizer()
        return self.checkpoint.tokenizer()

    @cached_property
    def lm(self) -> Any:
        from regrow.evaluate.harness import wrap

        return wrap(self.model, self.tokenizer, self._spec.batch_size)


def evaluate(name: str, checkpoint: Checkpoint, spec: EvaluateSpec, cache: Path | None = None) -> Scores:
    """Evaluate a model.

    Args:
        name: what the model is called in tables: base, pruned, tuned-<dataset>, merged.
        checkpoint: the model.
        spec: tasks, perplexity and settings.
        cache: folder for finished results and for every item's answers (`*.samples.jsonl`); nothing is kept
            if not given.

    Raises:
        InputError: a task, its questions, the texts or the model cannot be used; the message says which.
    """
    live = _Live(checkpoint, spec)
    price = cost(checkpoint, spec.cost_context)
    scores = {task.name: _task(task, live, checkpoint, spec, cache) for task in spec.tasks}
    texts = {
        one.name: _perplexity(one, live, checkpoint, spec, cache)
        for one in (spec.perplexity, *spec.more_texts)
        if one
    }
    first = next(iter(texts.values()), None)
    return Scores(
        name=name,
        digest=checkpoint.digest,
        parameters=price.parameters,
        flops_per_token=price.flops_per_token,
        perplexity=first.value if first else None,
        perplexity_tokens=first.tokens if first else 0,
        more_perplexities={name: one.value for name, one in list(texts.items())[1:]},
        scores=scores,
        settings={**_settings(checkpoint, spec), "spec": spec.model_dump(mode="json")},
        seconds=round(
            sum(one.seconds for one in scores.values()) + sum(one.seconds for one in texts.values()), 3
        ),
    )


def _settings(checkpoint: Checkpoint, spec: EvaluateSpec) -> dict[str, Any]:
    """What every result depends on besides its own questions."""
    return {
        "batch_size": spec.batch_size,
        "dtype": str(checkpoint.compute_dtype(spec.dtype)).removeprefix("torch."),
        "chat_template": spec.chat_template,
        "seed": spec.seed,
        "lm_eval": version("lm-eval"),
        "transformers": version("transformers"),
        "torch": version("torch"),
        "format": _FORMAT,
    }


def _task(
    task: TaskSpec, live: _Live, checkpoint: Checkpoint, spec: EvaluateSpec, cache: Path | None
) -> TaskScore:
    # Read here, not where they are used: the key must hold what the questions say, not where they lie.
    sets = local_sets(task, spec.seed)
    key = {
        "model": checkpoint.digest,
        "task": task.model_dump(
            mode="json", exclude={"source", "sha256", "fewshot_source", "fewshot_sha256", "held_out"}
        ),
        "questions": canonical_digest([[one.task, one.rows, one.fewshot] for one in sets]),
        **_settings(checkpoint, spec),
    }
    path = kept.place(cache, checkpoint, task.name, key)
    if found := kept.find(path, key, TaskScore):
        log.info("%s: %s is in the cache", checkpoint.folder.name, task.name)
        return found
    from regrow.evaluate.harness import run_task

    score = run_task(live.lm, task, spec, path.with_suffix(".samples.jsonl") if path else None, sets)
    kept.keep(path, key, score)
    return score


def _perplexity(
    text: TextSpec, live: _Live, checkpoint: Checkpoint, spec: EvaluateSpec, cache: Path | None
) -> _TimedPerplexity:
    from regrow.source import read_texts

    texts = read_texts(text)
    key = {
        "model": checkpoint.digest,
        "texts": canonical_digest(texts),
        "window": spec.window,
        "stride": spec.stride,
        **_settings(checkpoint, spec),
    }
    path = kept.place(cache, checkpoint, "perplexity", key)
    if found := kept.find(path, key, _TimedPerplexity):
        return found
    started = time.monotonic()
    # A window is as long as several questions; fewer of them make a pass of about the same size.
    batch = max(1, min(spec.batch_size, 2048 // spec.window))
    result = perplexity(
        live.model, live.tokenizer, texts, window=spec.window, stride=spec.stride, batch_size=batch
    )
    if not math.isfinite(result.value):
        log.warning(
            "%s: perplexity of %s is infinite; the model gives this text no probability",
            checkpoint.folder.name,
            text.name,
        )
    timed = _TimedPerplexity(**result.model_dump(), seconds=round(time.monotonic() - started, 3))
    kept.keep(path, key, timed)
    return timed
