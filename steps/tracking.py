"""What MLflow is told of each stage: one place turns results into parameters, metrics and artifacts.

A step logs its own results while it runs. A step taken from ZenML's cache does not run, so `register`, the
last one, logs what is missing: every pipeline run has one complete MLflow run.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import singledispatch
from pathlib import Path
from typing import Any

import mlflow
from pydantic import BaseModel

from regrow import quality, report
from regrow.checkpoint import Checkpoint
from regrow.evaluate import Drift, Measures
from regrow.evaluate.scores import Scores
from regrow.importance import LayerImportance
from regrow.prune import PrunePlan
from regrow.quality import GateResult
from regrow.selfdata import SelfData, Shift
from regrow.study import StudyResult, tables
from regrow.tune.record import TuningRecord

_log = logging.getLogger(__name__)
_LOGGED = "regrow.logged."
# What is shown of a tuning run by step.
_COURSE = ("loss", "learning_rate", "tokens_per_second", "grad_norm", "memory_bytes")
# MLflow refuses longer parameters.
_MAX_PARAM = 6000


@dataclass
class Facts:
    """What MLflow keeps of a result."""

    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)


@singledispatch
def facts(result: Any) -> Facts:
    """Return what MLflow keeps of a result; a specification is kept as parameters."""
    return Facts(params=_flat(result.model_dump(mode="json")))


@facts.register
def _(result: Checkpoint) -> Facts:
    summary = result.summary()
    return Facts(
        params={"digest": result.digest, "architecture": summary["architecture"]},
        metrics={"parameters": result.parameters, "blocks": summary["blocks"], "bytes": summary["bytes"]},
    )


@facts.register
def _(result: LayerImportance) -> Facts:
    best = {size: result.best(size) for size in range(1, result.blocks)}
    return Facts(
        params={"calibration_digest": result.calibration_digest, "computed_in": result.dtype},
        metrics={"samples": result.samples, "tokens": result.tokens},
        series={
            "best_distance_by_size": [(size, distance) for size, (_, distance) in best.items()],
            "block_influence": list(enumerate(result.block_influence)),
        },
        texts={
            "importance.json": result.to_json(),
            "importance.html": report.importance_page(result),
        },
    )


@facts.register
def _(result: PrunePlan) -> Facts:
    facts = result.summary()
    return Facts(
        params={key: value for key, value in facts.items() if isinstance(value, str)},
        metrics={key: value for key, value in facts.items() if not isinstance(value, str)},
        texts={"plan.json": result.model_dump_json(indent=2)},
    )


@facts.register
def _(result: SelfData) -> Facts:
    numbers = {key: value for key, value in result.summary.items() if isinstance(value, int | float)}
    numbers |= {f"read.{name}": count for name, count in result.summary.get("read", {}).items()}
    decisions = {f"decision.{_key(name)}": count for name, count in result.summary["decisions"].items()}
    page = report.selfdata_page(result.summary, result.rows()[:20])
    tries = list(enumerate(result.summary.get("acceptance_by_attempt", []), start=1))
    return Facts(
        params={"digest": result.digest},
        metrics=numbers | decisions,
        series={"acceptance_by_attempt": tries} if len(tries) > 1 else {},
        texts={"rewrites.html": page},
    )


@facts.register
def _(result: GateResult) -> Facts:
    metrics: dict[str, float] = {
        "records": result.records,
        "failed_expectations": len(result.failed()),
        "removed": result.removed,
    }
    metrics |= {f"removed.{_key(name)}": count for name, count in result.removed_by.items()}
    return Facts(
        params={"passed": result.passed},
        metrics=metrics,
        texts=quality.pages(result),
        files=[result.quarantine] if result.quarantine else [],
    )


@facts.register
def _(result: Shift) -> Facts:
    return Facts(
        params={"data": result.data_digest, "model": result.model},
        metrics=result.summary(),
        texts={"shift.json": result.model_dump_json(indent=2), "shift.html": report.shift_page(result)},
    )


@facts.register
def _(result: TuningRecord) -> Facts:
    series = {
        key: [(row["step"], row[key]) for row in result.log if row.get(key) is not None] for key in _COURSE
    }
    numbers = {key: value for key, value in result.summary.items() if isinstance(value, int | float)}
    return Facts(
        params={"digest": result.digest},
        metrics=numbers,
        series=series,
        texts={"tuning.html": report.tuning_page(result)},
    )


@facts.register
def _(result: Scores) -> Facts:
    metrics = {
        f"{task}.{_key(name)}": value
        for task, score in result.scores.items()
        for name, value in {score.metric: score.value, **score.others}.items()
    }
    if result.perplexity is not None:
        metrics["perplexity"] = result.perplexity
    metrics |= {f"perplexity.{_key(name)}": value for name, value in result.more_perplexities.items()}
    return Facts(
        params={"digest": result.digest},
        metrics=metrics | {"flops_per_token": result.flops_per_token},
        texts={"scores.json": result.model_dump_json(indent=2), "scores.html": report.scores_page(result)},
    )


@facts.register
def _(result: StudyResult) -> Facts:
    metrics: dict[str, float] = {}
    for row in result.rows:
        size = "" if row.records is None else f".{row.records}-records"
        key = _key(f"{row.blocks}-blocks.{row.arm}{size}")
        metrics |= {f"{key}.recovery": row.recovery.mean, f"{key}.mean_score": row.mean.mean}
        if row.perplexity is not None:
            metrics[f"{key}.perplexity"] = row.perplexity.mean
    return Facts(params={"base": result.base.digest}, metrics=metrics, texts={"study.md": tables(result)})


@facts.register
def _(result: Drift) -> Facts:
    flat = _flat(result.summary())
    return Facts(
        params={"model": result.model, "base": result.base, "encoder": result.encoder},
        metrics={key: value for key, value in flat.items() if isinstance(value, int | float)},
        texts={"drift.json": result.model_dump_json(indent=2), "drift.html": report.drift_page(result)},
    )


@facts.register
def _(result: Measures) -> Facts:
    flat = _flat(result.summary())
    return Facts(
        metrics={key: value for key, value in flat.items() if isinstance(value, int | float)},
        texts={
            "measures.json": result.model_dump_json(indent=2),
            "measures.html": report.measures_page(result),
        },
    )


@facts.register
def _(result: dict) -> Facts:  # type: ignore[type-arg]
    flat = _flat(result)
    numbers = {key: value for key, value in flat.items() if isinstance(value, int | float)}
    return Facts(params={key: value for key, value in flat.items() if key not in numbers}, metrics=numbers)


def log_stage(stage: str, *results: BaseModel | dict[str, Any]) -> None:
    """Log a stage's results under its name into the active MLflow run, unless it holds them already.

    Args:
        stage: the step's name in the pipeline; prefix of every key.
        results: specifications and results of the stage.
    """
    run = mlflow.active_run()
    if run is None:
        return
    client = mlflow.MlflowClient()
    if f"{_LOGGED}{stage}" in client.get_run(run.info.run_id).data.tags:
        return
    for result in results:
        found = facts(result)
        mlflow.log_params({f"{stage}.{key}": str(value)[:_MAX_PARAM] for key, value in found.params.items()})
        mlflow.log_metrics({f"{stage}.{key}": float(value) for key, value in found.metrics.items()})
        for key, points in found.series.items():
            there = {one.step for one in client.get_metric_history(run.info.run_id, f"{stage}.{key}")}
            for step, value in points:
                if step not in there:  # else `live` has sent it, perhaps from a run that was killed
                    mlflow.log_metric(f"{stage}.{key}", value, step=step)
        for name, text in found.texts.items():
            mlflow.log_text(text, f"{stage}/{name}")
        for file in found.files:
            mlflow.log_artifact(str(file), stage)
    mlflow.set_tag(f"{_LOGGED}{stage}", "yes")


def live(stage: str) -> Callable[[dict[str, Any]], None] | None:
    """Return what sends a tuning run's log to the active MLflow run entry by entry; None without a run.

    A tracking server that fails costs the picture, not the training: the entries are logged when the stage ends.
    """
    if mlflow.active_run() is None:
        return None

    def send(entry: dict[str, Any]) -> None:
        values = {f"{stage}.{key}": float(entry[key]) for key in _COURSE if entry.get(key) is not None}
        try:
            mlflow.log_metrics(values, step=entry["step"])
        except mlflow.MlflowException as error:
            _log.warning("step %d is not in MLflow yet: %s", entry["step"], error)

    return send


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            flat |= _flat(item, f"{prefix}{key}.")
        elif item is not None:
            flat[f"{prefix}{key}"] = item
    return flat


def _key(text: str) -> str:
    """A name as MLflow allows it in a key."""
    return "".join(char if char.isalnum() or char in "_-." else "_" for char in text)
