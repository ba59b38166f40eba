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
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from regrow.checkpoint import Checkpoint
from regrow.evaluate.cost import Cost, cost
from regrow.evaluate.perplexity import Perplexity, perplexity
from regrow.evaluate.scores import Recovery, Scores, TaskScore, recovery, recovery_interval
from regrow.evaluate.spec import EvaluateSpec, TaskSpec
from regrow.evaluate.tasks import local_sets
from regrow.evaluate.texts import task_texts
from regrow.files import canonical_digest, read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "Cost",
    "EvaluateSpec",
    "Perplexity",
    "Recovery",
    "Scores",
    "TaskScore",
    "TaskSpec",
    "cost",
    "evaluate",
    "perplexity",
    "recovery",
    "recovery_interval",
    "task_texts",
]

log = logging.getLogger(__name__)
# Changes when results in older caches would no longer be what this code finds.
_FORMAT = 1
_Result = TypeVar("_Result", bound=BaseModel)


class _TimedPerplexity(Perplexity):
    seconds: float


class _Live:
    """The model, loaded when the first result is not in the cache."""

    def __init__(self, checkpoint: Checkpoint, spec: EvaluateSpec) -> None:
        self._checkpoint = checkpoint
        self._spec = spec

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        if self._spec.chat_template:
            return self._checkpoint.chat_tokenizer()
        return self._checkpoint.tokenizer()

    @cached_property
    def model(self) -> "PreTrainedModel":
        return self._checkpoint.load(dtype=self._spec.dtype)

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
    folder = cache / checkpoint.digest[:16] if cache else None
    price = cost(checkpoint, spec.cost_context)
    scores = {task.name: _task(task, live, checkpoint, spec, folder) for task in spec.tasks}
    text = _perplexity(live, checkpoint, spec, folder)
    return Scores(
        name=name,
        digest=checkpoint.digest,
        parameters=price.parameters,
        flops_per_token=price.flops_per_token,
        perplexity=text.value if text else None,
        perplexity_tokens=text.tokens if text else 0,
        scores=scores,
        settings={**_settings(checkpoint, spec), "spec": spec.model_dump(mode="json")},
        seconds=round(sum(score.seconds for score in scores.values()) + (text.seconds if text else 0.0), 3),
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
    task: TaskSpec, live: _Live, checkpoint: Checkpoint, spec: EvaluateSpec, folder: Path | None
) -> TaskScore:
    # Read here, not where they are used: the key must hold what the questions say, not where they lie.
    sets = local_sets(task, spec.seed)
    key = {
        "model": checkpoint.digest,
        "task": task.model_dump(
            mode="json", exclude={"source", "sha256", "fewshot_source", "fewshot_sha256"}
        ),
        "questions": canonical_digest([[one.task, one.rows, one.fewshot] for one in sets]),
        **_settings(checkpoint, spec),
    }
    path = folder / f"{task.name}-{canonical_digest(key)[:16]}.json" if folder else None
    if found := _cached(path, key, TaskScore):
        log.info("%s: %s is in the cache", checkpoint.folder.name, task.name)
        return found
    from regrow.evaluate.harness import run_task

    score = run_task(live.lm, task, spec, path.with_suffix(".samples.jsonl") if path else None, sets)
    _keep(path, key, score)
    return score


def _perplexity(
    live: _Live, checkpoint: Checkpoint, spec: EvaluateSpec, folder: Path | None
) -> _TimedPerplexity | None:
    if spec.perplexity is None:
        return None
    from regrow.source import read_texts

    texts = read_texts(spec.perplexity)
    key = {
        "model": checkpoint.digest,
        "texts": canonical_digest(texts),
        "window": spec.window,
        "stride": spec.stride,
        **_settings(checkpoint, spec),
    }
    path = folder / f"perplexity-{canonical_digest(key)[:16]}.json" if folder else None
    if found := _cached(path, key, _TimedPerplexity):
        return found
    started = time.monotonic()
    # A window is as long as several questions; fewer of them make a pass of about the same size.
    batch = max(1, min(spec.batch_size, 2048 // spec.window))
    result = perplexity(
        live.model, live.tokenizer, texts, window=spec.window, stride=spec.stride, batch_size=batch
    )
    if not math.isfinite(result.value):
        log.warning(
            "%s: perplexity is infinite; the model gives this text no probability", checkpoint.folder.name
        )
    timed = _TimedPerplexity(**result.model_dump(), seconds=round(time.monotonic() - started, 3))
    _keep(path, key, timed)
    return timed


def _cached(path: Path | None, key: dict[str, Any], kind: type[_Result]) -> _Result | None:
    if path is None or not path.exists():
        return None
    stored = read_json(path)
    return kind.model_validate(stored["result"]) if stored.get("key") == key else None


def _keep(path: Path | None, key: dict[str, Any], result: BaseModel) -> None:
    if path is not None:
        write_json(path, {"key": key, "result": result.model_dump(mode="json")})
