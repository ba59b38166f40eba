"""What a run has cost: seconds of pods and of their GPUs, by stage."""

import os
from typing import Any

import mlflow
from zenml import get_step_context
from zenml.client import Client

_KEYS = ("seconds", "cpu_seconds", "gpu_seconds")


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


def account() -> dict[str, dict[str, float]]:
    """Return by stage what this run has used so far: every try counts, what came from ZenML's cache costs nothing.

    The stage is the step's function. `steps` counts those that were worked on, `cached` the others, `tries` all tries.
    """
    run = get_step_context().pipeline_run.id
    rows: dict[str, dict[str, float]] = {}
    page = 1
    while True:
        found = Client().list_run_steps(pipeline_run_id=run, page=page, size=100, hydrate=True)
        for step in found.items:
            stage = str(_told(step).get("stage") or step.spec.source.attribute)
            row = rows.setdefault(
                stage, dict.fromkeys(("steps", "cached", "tries", *_KEYS, "peak_memory_bytes"), 0)
            )
            _add(row, step)
        if page >= found.total_pages:
            return {name: {key: round(value, 2) for key, value in row.items()} for name, row in rows.items()}
        page += 1


def _add(row: dict[str, float], step: Any) -> None:
    status = step.status.value
    if status == "cached":
        row["cached"] += 1
        return
    used: dict[str, Any] = step.run_metadata or _command(step)
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
    """Return what the launcher has noted of a step: its stage, GPUs, pods."""
    return dict((step.config.extra or {}).get("regrow", {}))


def _command(step: Any) -> dict[str, Any]:
    """Return what the pods of a command used, which cannot say it to ZenML: from its start to its end."""
    if step.config.command is None or not (step.start_time and step.end_time):
        return {}
    told = _told(step)
    pods = int(told.get("pods", 1))
    seconds = (step.end_time - step.start_time).total_seconds() * pods
    return {"seconds": seconds, "gpus": float(told.get("gpus", 0)) / pods, "peak_memory_bytes": 0}


def log_account(rows: dict[str, dict[str, float]]) -> None:
    """Give MLflow the table, and the sums as metrics."""
    if not mlflow.active_run():
        return
    mlflow.log_dict({"stages": rows, "total": total(rows)}, "cost.json")
    mlflow.log_metrics({f"cost.total.{key}": value for key, value in total(rows).items()})


def total(rows: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the sums over all stages."""
    return {key: round(sum(row[key] for row in rows.values()), 2) for key in _KEYS}
