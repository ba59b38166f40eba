"""Run lm-eval tasks on a model and keep every item's result.

lm-eval's `simple_evaluate` is not called: with every call it indexes all its tasks and asks the system
about itself, half a minute that is longer than a task takes. What it does besides is little (the seeds and
the number of few-shot examples) and is done here, before lm-eval's `evaluate`, which does the work.
"""

import json
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.errors import InputError
from regrow.evaluate.scores import TaskScore
from regrow.evaluate.spec import EvaluateSpec, TaskSpec
from regrow.evaluate.tasks import LocalSet, build_hub, build_local, choose, local_sets
from regrow.files import atomic_file, canonical_digest

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# A task and, for each of its questions, which row of the source it was.
Built = dict[str, tuple["ConfigurableTask", list[int]]]
_PREFERRED = ("acc_norm", "acc", "exact_match")


def wrap(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", batch_size: int) -> "HFLM":
    """Give lm-eval a loaded model.

    Log-probabilities are taken in float32: in bfloat16, which lm-eval would use for such a model, sums
    over an answer differ in steps so coarse that choices tie.
    """
    with quiet():
        from regrow.evaluate.packing import packed_model

        lm: HFLM = packed_model()(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size, softmax_dtype="float32"
        )
        return lm


@contextmanager
def built_tasks(task: TaskSpec, seed: int, sets: list[LocalSet] | None = None) -> Iterator[Built]:
    """Build a task, or the tasks of a group, with its chosen questions.

    Raises:
        InputError: lm-eval has no such task, or its questions cannot be read.
    """
    with quiet(), tempfile.TemporaryDirectory(prefix="regrow-eval-") as scratch:
        sets = local_sets(task, seed) if sets is None else sets
        built: Built = {}
        if task.source is None:
            for name, one in build_hub(task).items():
                built[name] = one, choose(len(one.eval_docs), task.limit, task.choose, seed)
        for local in sets:
            one = build_local(local, task, Path(scratch) / local.task)
            built[local.task] = one, local.indices
        for name, (one, _) in built.items():
            _set_fewshot(name, one, task, seed)
        yield built


def _set_fewshot(name: str, one: "ConfigurableTask", task: TaskSpec, seed: int) -> None:
    shots = one.get_config("num_fewshot")
    if shots is None:
        shots = 0
        one.set_config("num_fewshot", 0)
    if shots and task.source and not (task.fewshot_source or task.held_out):
        raise InputError(
            f"tasks.{name}: the task asks for {shots} examples and `source` has none; give a fewshot_source "
            "(the set's training split), let held_out rows serve, or set num_fewshot to 0"
        )
    one.set_fewshot_seed(seed)


def run_task(
    lm: "HFLM", task: TaskSpec, spec: EvaluateSpec, samples: Path | None, sets: list[LocalSet]
) -> TaskScore:
    """Evaluate one task, or one group, and return its score.

    Args:
        lm: the wrapped model.
        task: the task.
        spec: seed and chat template.
        samples: a JSONL file for every item's result; not written if not given.
        sets: what `local_sets` read for the task; empty for a task from the hub.

    Raises:
        InputError: the task does not exist, or has no such metric.
    """
    import lm_eval
    from lm_eval.utils import set_torch_seed

    started = time.monotonic()
    with built_tasks(task, spec.seed, sets) as built:
        set_torch_seed(spec.seed)
        hub = task.source is None
        results = lm_eval.evaluate(
            lm,
            task_dict={"tasks": {name: one for name, (one, _) in built.items()}},
            samples={name: indices for name, (_, indices) in built.items()} if hub else None,
            apply_chat_template=spec.chat_template,
            fewshot_as_multiturn=spec.chat_template,
            bootstrap_iters=1000,
        )
        items = {name: _items(results["samples"][name], built[name][1]) for name in built}
    metric = _metric(task, results["results"])
    if samples:
        _write_samples(samples, items)
    return _score(task.name, metric, results, items, time.monotonic() - started)


def _score(
    name: str, metric: str, results: dict[str, Any], items: dict[str, list[Any]], seconds: float
) -> TaskScore:
    first = next(iter(items))
    table = results["results"][first]
    keys = [key for key in table if "," in key and "_stderr," not in key]
    numbers = {key: _numbers(key, items) for key in keys}
    if len(items) == 1:
        values = {key: float(table[key]) for key in keys}
        stderr = table.get(metric.replace(",", "_stderr,", 1))
    else:
        # A group: every item weighs the same, as in lm-eval's own mean over mmlu.
        values = {key: sum(column) / len(column) for key, column in numbers.items() if column}
        stderr = _stderr(numbers[metric])
    kept = metric.partition(",")[2]
    hashes = [[task, one["hash"]] for task, rows in items.items() for one in rows if one["filter"] == kept]
    return TaskScore(
        metric=metric,
        value=values.pop(metric),
        stderr=float(stderr) if isinstance(stderr, (int, float)) else None,
        samples=len(hashes),
        items=numbers[metric],
        others=values,
        questions=canonical_digest(hashes),
        version=str(results["versions"].get(first)),
        num_fewshot=int(results["n-shot"][first]),
        seconds=round(seconds, 3),
    )


def _numbers(metric: str, items: dict[str, list[Any]]) -> tuple[float, ...]:
    """Return the score of each item, or nothing if the metric has no number for each."""
    key, _, kept = metric.partition(",")
    values = [one.get(key) for rows in items.values() for one in rows if one["filter"] == kept]
    numbers = tuple(float(value) for value in values if isinstance(value, (int, float, bool)))
    return numbers if len(numbers) == len(values) else ()


def _stderr(numbers: tuple[float, ...]) -> float | None:
    if len(numbers) < 2:
        return None
    mean = sum(numbers) / len(numbers)
    variance = sum((number - mean) ** 2 for number in numbers) / (len(numbers) - 1)
    return float((variance / len(numbers)) ** 0.5)


def _metric(task: TaskSpec, results: dict[str, dict[str, Any]]) -> str:
    """Return the full key of the task's metric, "name,filter"."""
    scores = next(iter(results.values()))
    keys = [key for key in scores if "," in key and "_stderr," not in key]
    wanted = [task.metric] if task.metric else list(_PREFERRED)
    for name in wanted:
        for key in keys:
            if key == name or key.partition(",")[0] == name:
                return key
    if task.metric is None and keys:
        return keys[0]
    raise InputError(f"tasks.{task.name}.metric: no {task.metric}; the task has {', '.join(keys)}")


def _items(samples: list[dict[str, Any]], indices: list[int]) -> list[dict[str, Any]]:
    """Return the results of the items, each with its row in the source, in order.

    `process_docs` may drop questions, and then rows cannot be told apart by their place.
    """
    samples = sorted(samples, key=lambda sample: (sample["filter"], sample["doc_id"]))
    filters = {sample["filter"] for sample in samples}
    whole = len(samples) == len(indices) * len(filters)
    return [
        {
            "row": indices[place % len(indices)] if whole else None,
            "filter": sample["filter"],
            "hash": sample["doc_hash"],
            "target": sample["target"],
            "prompt": sample["arguments"][0][0],
            "continuations": [arguments[1] for arguments in sample["arguments"]],
            "responses": sample["filtered_resps"],
            **{metric: sample[metric] for metric in sample["metrics"]},
        }
        for place, sample in enumerate(samples)
    ]


def _write_samples(path: Path, items: dict[str, list[dict[str, Any]]]) -> None:
    with atomic_file(path) as scratch, scratch.open("w", encoding="utf-8") as stream:
        for name, rows in items.items():
            for row in rows:
                stream.write(json.dumps({"task": name, **row}, ensure_ascii=False, default=str) + "\n")


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what lm-eval and `datasets` say about their own workings; errors still show."""
    import datasets

    names = ("lm_eval", "datasets", "evaluate", "transformers.tokenization_utils_base")
    before = {name: logging.getLogger(name).level for name in names}
    bars = datasets.are_progress_bars_disabled()
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        if not bars:
            datasets.enable_progress_bars()
