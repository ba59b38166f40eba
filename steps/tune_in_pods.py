"""Tuning in several pods that run one command: what they are given, and what they leave (regrow.tune.pods)."""

import os
from pathlib import Path
from typing import Annotated

from zenml import step

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.selfdata import SelfData
from regrow.tune import Recipe, pods
from regrow.tune.record import TuningRecord
from regrow.tune.tuned import Tuned
from steps.caching import depends_on, tuning_files
from steps.fine_tune import finished, recorded
from steps.workspace import claim, measured, work_dir


@step(cache_policy=depends_on(files=tuning_files))
def lay_out_tuning(
    pruned: Checkpoint, accepted: SelfData, folder: str, recipe: Recipe, teacher: Checkpoint | None = None
) -> Annotated[str, "laid_out"]:
    """Put models, data and recipe where every pod finds them; the digest of all that."""
    with measured():
        return pods.lay_out(_shared(folder), pruned, accepted.folder, recipe, teacher)


@step(experiment_tracker=True, cache_policy=depends_on(files=tuning_files))
def collect_tuning(
    laid_out: str, folder: str, name: str, recipe: Recipe
) -> tuple[Annotated[Checkpoint, "tuned"], Annotated[TuningRecord, "tuning"]]:
    """Take what the pods have left of what was laid out for them."""
    with measured():
        out = finished(work_dir())
        tuned = Tuned.open(out) if out.exists() else pods.collect(_shared(folder), out)
        model, record = recorded(tuned, name, recipe)
    return model, record


def _shared(folder: str) -> Path:
    work = os.environ.get("REGROW_WORK")
    if work is None:
        raise InputError(
            "tuning in several pods needs a folder that all of them mount: `cache` in the stack file (REGROW_WORK)"
        )
    shared = Path(work) / folder
    claim(shared)
    return shared
