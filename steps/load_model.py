"""The unpruned model as a checkpoint."""

from typing import Annotated

from zenml import step

from regrow.checkpoint import Checkpoint
from regrow.source import ModelSpec, models, resolve_model
from steps.caching import depends_on
from steps.tracking import log_stage
from steps.workspace import fresh, measured, work_dir


@step(experiment_tracker=True, cache_policy=depends_on(models))
def load_model(model: ModelSpec) -> Annotated[Checkpoint, "base"]:
    """Resolve the model's source into a checkpoint folder (regrow.source)."""
    with measured():
        base = resolve_model(model, fresh(work_dir() / "base"))
        log_stage("load_model", model, base)
    return base
