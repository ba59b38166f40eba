"""Statements about results that are values: they lie in `provenance/` of the folder that the value is written to."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from regrow.files import canonical_digest
from regrow.lineage.describe import describe_value, material
from regrow.lineage.record import record
from regrow.lineage.statement import Resource, Statement

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint
    from regrow.evaluate import Drift, EvaluateSpec, Measures
    from regrow.evaluate.scores import Scores
    from regrow.importance import ImportanceSpec, LayerImportance
    from regrow.selfdata import SelfData, Shift, ShiftSpec


def state_importance(
    importance: "LayerImportance",
    checkpoint: "Checkpoint",
    spec: "ImportanceSpec",
    folder: Path,
    *,
    calibration: Resource | None = None,
    started: datetime | None = None,
) -> Statement:
    """State on which texts a model's blocks and units were measured.

    Args:
        importance: the measurement; its digest is that of its canonical JSON.
        checkpoint: the model that was measured.
        spec: how.
        folder: where importance.json lies, or will.
        calibration: where the texts came from (`regrow.source.origin`).
        started: when the stage began.
    """
    texts = describe_value("texts", importance.calibration_digest)
    return record(
        "importance",
        (folder, [_measurement("importance", importance)]),
        [material(checkpoint, "checkpoint"), texts, *([calibration] if calibration else [])],
        parameters=spec.model_dump(mode="json"),
        details={"samples": importance.samples, "tokens": importance.tokens, "dtype": importance.dtype},
        started=started,
    )


def state_scores(
    scores: "Scores", checkpoint: "Checkpoint", folder: Path, *, started: datetime | None = None
) -> Statement:
    """State what a model scored, on which tasks, with which settings.

    Args:
        scores: the evaluation; its digest (`scores_digest`) is in the registry's tag `regrow.scores` as well.
        checkpoint: the model.
        folder: where scores.json lies, or will.
        started: when the stage began.
    """
    found = {task: score.value for task, score in scores.scores.items()}
    if scores.perplexity is not None and math.isfinite(scores.perplexity):
        found["perplexity"] = scores.perplexity
    return record(
        "evaluate",
        (folder, [describe_value("scores", scores_digest(scores))]),
        [material(checkpoint, "checkpoint")],
        parameters=scores.settings,
        details=found,
        started=started,
    )


def state_shift(
    shift: "Shift",
    data: "SelfData",
    base: "Checkpoint",
    spec: "ShiftSpec",
    folder: Path,
    *,
    started: datetime | None = None,
) -> Statement:
    """State how much closer to the unpruned model its rewrites lie than the references.

    Args:
        shift: the measurement; its digest is that of its canonical JSON, as of the two below.
        data: the set.
        base: the unpruned model.
        spec: how.
        folder: where shift.json lies, or will.
        started: when the stage began.
    """
    return record(
        "shift",
        (folder, [_measurement("shift", shift)]),
        [material(base, "checkpoint"), material(data.folder, "dataset", digest=data.digest)],
        parameters=spec.model_dump(mode="json"),
        details=_finite(shift.summary()),
        started=started,
    )


def state_drift(
    drift: "Drift", base: "Checkpoint", model: "Checkpoint", folder: Path, *, started: datetime | None = None
) -> Statement:
    """State how far a model has moved from the unpruned one.

    Args:
        drift: the measurement.
        base: the unpruned model.
        model: the other.
        folder: where it is written to.
        started: when the stage began.
    """
    return record(
        "drift",
        (folder, [_measurement("drift", drift)]),
        [material(base, "checkpoint"), material(model, "checkpoint")],
        parameters=drift.settings,
        details=_finite(drift.summary()),
        started=started,
    )


def state_speed(
    measures: "Measures",
    models: Sequence["Checkpoint"],
    spec: "EvaluateSpec",
    folder: Path,
    *,
    started: datetime | None = None,
) -> Statement:
    """State what models cost to run, measured in turns.

    Args:
        measures: speeds and drafts.
        models: the unpruned model and the others.
        spec: the evaluation that asked for it.
        folder: where it is written to.
        started: when the stage began.
    """
    asked = {name: getattr(spec, name) for name in ("speed", "draft")}
    return record(
        "speed",
        (folder, [_measurement("speed", measures)]),
        [material(one, "checkpoint") for one in models],
        parameters={name: one.model_dump(mode="json") for name, one in asked.items() if one is not None},
        details=_finite(measures.summary()),
        started=started,
    )


def value_digest(value: BaseModel) -> str:
    """Return what names a measurement: SHA-256 over its canonical JSON."""
    return canonical_digest(value.model_dump(mode="json"))


def _measurement(name: str, value: BaseModel) -> Resource:
    return describe_value(name, value_digest(value))


def _finite(value: Any) -> Any:
    """Leave out numbers that JSON cannot hold: of a ruined model a perplexity may be infinite."""
    if isinstance(value, Mapping):
        return {key: found for key, one in value.items() if (found := _finite(one)) is not None}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def scores_digest(scores: "Scores") -> str:
    """Return what names an evaluation: SHA-256 over its canonical JSON, every item's score included."""
    return value_digest(scores)
