"""The pruned model learns from the data that passed the gate."""

from typing import Annotated

import mlflow
from zenml import step

from regrow import tune
from regrow.checkpoint import Checkpoint
from regrow.selfdata import SelfData
from regrow.tune import Recipe, data, launch
from regrow.tune.record import TuningRecord
from steps.caching import depends_on
from steps.tracking import log_stage
from steps.workspace import fresh, measured, work_dir


@step(experiment_tracker=True, cache_policy=depends_on(data, launch))
def fine_tune(
    pruned: Checkpoint, accepted: SelfData, name: str, recipe: Recipe
) -> tuple[Annotated[Checkpoint, "tuned"], Annotated[TuningRecord, "tuning"]]:
    """Train an adapter in a process of its own and merge it into the weights (regrow.tune)."""
    with measured():
        work = work_dir()
        tuned = tune.tune(pruned, accepted.folder, recipe, fresh(work / "tuned"), work=work / "job")
        record = TuningRecord(
            dataset=name, digest=tuned.checkpoint.digest, log=tuned.log, summary=tuned.summary
        )
        log_stage(f"fine_tune.{name}", recipe, record)
        if mlflow.active_run():
            mlflow.log_artifacts(str(tuned.folder / "adapter"), f"fine_tune.{name}/adapter")
    return tuned.checkpoint, record
