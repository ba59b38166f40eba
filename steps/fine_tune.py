"""The pruned model learns from the data that passed the gate."""

from pathlib import Path
from typing import Annotated

import mlflow
from zenml import step

from regrow import tune
from regrow.checkpoint import Checkpoint
from regrow.selfdata import SelfData
from regrow.tune import Recipe
from regrow.tune.record import TuningRecord
from regrow.tune.tuned import Tuned
from steps.caching import depends_on, tuning_files
from steps.tracking import live, log_stage
from steps.workspace import measured, work_dir


@step(experiment_tracker=True, cache_policy=depends_on(files=tuning_files))
def fine_tune(
    pruned: Checkpoint, accepted: SelfData, name: str, recipe: Recipe, teacher: Checkpoint | None = None
) -> tuple[Annotated[Checkpoint, "tuned"], Annotated[TuningRecord, "tuning"]]:
    """Train in processes of their own and merge the result into the weights (regrow.tune)."""
    with measured():
        work = work_dir()
        out = finished(work)
        tuned = (
            Tuned.open(out)
            if out.exists()
            else tune.tune(
                pruned, accepted.folder, recipe, out, work=work / "job", teacher=teacher,
                follower=live(f"fine_tune.{name}"),
            )
        )  # fmt: skip
        assert tuned is not None  # one machine
        model, record = recorded(tuned, name, recipe)
    return model, record  # ZenML takes a step for one of several outputs only where it sees a tuple here


def finished(work: Path) -> Path:
    """Return where a finished training lies, until it is stored.

    A pod that is killed meanwhile, or a server that is away, must not cost the training: the next try, or the next run,
    finds it here. What other code has trained is not taken for it.
    """
    return work / f"tuned-{tuning_files()[:12]}"


def recorded(tuned: Tuned, name: str, recipe: Recipe) -> tuple[Checkpoint, TuningRecord]:
    """Log a training run under its set's name; return the model and the record of it."""
    assert tuned.checkpoint is not None  # the configuration refuses what cannot be merged
    stage = f"fine_tune.{name}"
    record = TuningRecord(dataset=name, digest=tuned.checkpoint.digest, log=tuned.log, summary=tuned.summary)
    log_stage(stage, recipe, record)
    if mlflow.active_run() and (tuned.folder / "adapter").exists():
        mlflow.log_artifacts(str(tuned.folder / "adapter"), f"{stage}/adapter")
    return tuned.checkpoint, record
