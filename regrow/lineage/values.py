"""Statements about results that are values: they lie in `provenance/` of the folder that the value is written to."""

import math
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from regrow.files import canonical_digest
from regrow.lineage.describe import describe_value, material
from regrow.lineage.record import record
from regrow.lineage.statement import Resource, Statement

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint
    from regrow.evaluate.scores import Scores
    from regrow.importance import ImportanceSpec, LayerImportance


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
    value = importance.model_dump(mode="json")
    texts = describe_value("texts", importance.calibration_digest)
    return record(
        "importance",
        (folder, [describe_value("importance", canonical_digest(value))]),
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


def scores_digest(scores: "Scores") -> str:
    """Return what names an evaluation: SHA-256 over its canonical JSON, every item's score included."""
    return canonical_digest(scores.model_dump(mode="json"))
