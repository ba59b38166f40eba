"""How far a model has moved from the unpruned one."""

from typing import Annotated

from zenml import step

from regrow.checkpoint import Checkpoint
from regrow.evaluate import Drift, EvaluateSpec, answers, drift, health
from steps.caching import depends_on
from steps.tracking import log_stage
from steps.workspace import cache_folder, measured


@step(experiment_tracker=True, cache_policy=depends_on(answers, drift, health))
def measure_drift(
    base: Checkpoint, model: Checkpoint, name: str, spec: EvaluateSpec
) -> Annotated[Drift, "drift"]:
    """Compare a model's own answers and predictions with the unpruned model's (regrow.evaluate.drift)."""
    with measured():
        result = drift.drift(base, model, spec, cache_folder() / "evaluation", name=name)
        log_stage(f"measure_drift.{name}", result)
    return result
