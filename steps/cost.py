"""What a run has cost: seconds of pods and of their GPUs, by stage."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import mlflow
import psutil
from zenml import get_step_context
from zenml.client import Client

from regrow.tune.record import TuningRecord

_KEYS = ("seconds", "cpu_seconds", "gpu_seconds")
# The program that ZenML starts in a pod for one step.
_ONE_STEP = "zenml.entrypoints.entrypoint"


def already() -> float:
    """Return the seconds that this step's process has lived; 0 where one process runs many steps.

    ZenML fetches and digests the inputs before it calls the step, and the pod holds its GPUs meanwhile.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None or spec.name != _ONE_STEP:
        return 0.0
    return max(0.0, time.time() - psutil.Process().create_time())


def held() -> dict[str, float]:
    """Return the CPUs and the GPUs that this step holds: what its pod asks for, else what it may use."""
    asked = _told(get_step_context().step_run)
    cpus = asked.get("cpus") or len(os.sched_getaffinity(0))
    gpus = _gpus() if asked.get("gpus") is None else asked["gpus"]
    return {"cpus": float(cpus), "gpus": float(gpus)}


def _gpus() -> int:
    """Count the GPUs that the environment names."""
    if (given := os.environ.get("REGROW_GPUS", "")).isdigit():
        return int(given)
    # The device plugin names devices; images for GPUs say `all` where there is none.
    visible = os.environ.get("NVIDIA_VISIBLE_DEVICES", "")
    return len([one for one in visible.split(",") if one and one not in ("all", "none", "void")])


def facts(seconds: float, peak: int, lost: float = 0.0) -> dict[str, float | int]:
    """Return what a step has used, for ZenML's metadata.

    Kubernetes replaces a pod that was deleted, and ZenML takes the new one for the same try: what the earlier one has
    said of itself is added to `lost_seconds` here, and counted in `tries`.

    Args:
        seconds: this pod took.
        peak: bytes of memory at most.
        lost: seconds of an earlier try that could not say so itself.
    """
    run = get_step_context().step_run
    before = run.run_metadata
    # A try that ZenML itself has begun anew has a record of its own, and counts there.
    silent = bool(lost) and run.version == 1
    found = {
        "seconds": round(seconds, 2),
        "peak_memory_bytes": max(peak, int(before.get("peak_memory_bytes", 0))),
        "tries": int(before.get("tries", 0)) + silent + 1,
        **held(),
    }
    lost += float(before.get("seconds", 0.0)) + float(before.get("lost_seconds", 0.0))
    return found | ({"lost_seconds": round(lost, 2)} if lost else {})


def log_facts(name: str, found: dict[str, float | int]) -> None:
    """Give MLflow the same under the step's name."""
    if mlflow.active_run():
        mlflow.log_metrics({f"cost.{name}.{key}": float(value) for key, value in found.items()})


def of_pods(tunings: Iterable[TuningRecord]) -> dict[str, float]:
    """Return the seconds that each training took by its own clock, by the step that trains (pipelines.tuning)."""
    return {f"fine_tune_{one.dataset}": float(one.summary["wall_seconds"]) for one in tunings}


def account(trained: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return by stage what this run has used so far: every try counts, what came from ZenML's cache costs nothing.

    The stage is the step's function. `steps` counts those that were worked on, `cached` the others, `tries` all tries.

    Args:
        trained: seconds of a training by its step (`of_pods`), for those in several pods, which cannot tell ZenML.
    """
    steps = list(_steps())
    # Pods whose result is in ZenML's cache find nothing to do.
    cached = {step.name for step in steps if step.status.value == "cached"}
    rows: dict[str, dict[str, float]] = {}
    for step in steps:
        stage = str(_told(step).get("stage") or step.spec.source.attribute)
        row = rows.setdefault(
            stage, dict.fromkeys(("steps", "cached", "tries", *_KEYS, "peak_memory_bytes"), 0)
        )
        _add(row, step, 0.0 if f"collect_{step.name}" in cached else trained.get(step.name))
    return {name: {key: round(value, 2) for key, value in row.items()} for name, row in rows.items()}


def _steps() -> Iterator[Any]:
    """Yield every try of every step of this run."""
    run = get_step_context().pipeline_run.id
    page = 1
    while True:
        found = Client().list_run_steps(pipeline_run_id=run, page=page, size=100, hydrate=True)
        yield from found.items
        if page >= found.total_pages:
            return
        page += 1


def _add(row: dict[str, float], step: Any, trained: float | None) -> None:
    status = step.status.value
    if status == "cached":
        row["cached"] += 1
        return
    used: dict[str, Any] = step.run_metadata or _command(step, trained)
    if "seconds" not in used:  # it is still at work, or was killed: the next try knows for how long
        row["tries"] += status in ("retried", "retrying")
        return
    seconds = float(used["seconds"]) + float(used.get("lost_seconds", 0.0))
    row["tries"] += int(used.get("tries", 1))
    row["steps"] += status == "completed"
    row["seconds"] += seconds
    row["cpu_seconds"] += seconds * float(used.get("cpus", 0))
    row["gpu_seconds"] += seconds * float(used.get("gpus", 0))
    row["peak_memory_bytes"] = max(row["peak_memory_bytes"], float(used["peak_memory_bytes"]))


def _told(step: Any) -> dict[str, Any]:
    """Return what the launcher has noted of a step: its stage, GPUs, CPUs, pods."""
    return dict((step.config.extra or {}).get("regrow", {}))


def _command(step: Any, trained: float | None) -> dict[str, Any]:
    """Return what the pods of a command used, which cannot say it to ZenML themselves.

    A try that was completed counts with the time that the training took by its own clock. Of one that was not there is
    only ZenML's time from its start to its end, in which pods may have waited for a node or an image: at most so much.
    """
    if step.config.command is None or not (step.start_time and step.end_time):
        return {}
    told = _told(step)
    pods = int(told.get("pods", 1))
    seconds = (step.end_time - step.start_time).total_seconds()
    if trained is not None and step.status.value == "completed":
        seconds = min(seconds, trained)  # less, where an earlier try has left the result
    each = {name: float(told.get(name, 0)) / pods for name in ("cpus", "gpus")}
    return {"seconds": seconds * pods, "peak_memory_bytes": 0, **each}


def log_account(rows: dict[str, dict[str, float]]) -> None:
    """Give MLflow the table, and the sums as metrics."""
    if not mlflow.active_run():
        return
    mlflow.log_dict({"stages": rows, "total": total(rows)}, "cost.json")
    mlflow.log_metrics({f"cost.total.{key}": value for key, value in total(rows).items()})


def total(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the sums over all stages."""
    return {key: round(sum(row[key] for row in rows.values()), 2) for key in _KEYS}
