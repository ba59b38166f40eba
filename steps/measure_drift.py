"""How far a model has moved from the unpruned one."""

from datetime import UTC, datetime
from typing import Annotated

from zenml import step

from regrow.checkpoint import Checkpoint
from regrow.evaluate import Drift, EvaluateSpec, answers, drift, health
from regrow.lineage.values import state_drift
from steps import provenance
from steps.caching import depends_on
from steps.tracking import log_stage
from steps.workspace import cache_folder, measured


@step(experiment_tracker=True, cache_policy=depends_on(answers, drift, health))
def measure_drift(
    base: Checkpoint, model: Checkpoint, name: str, spec: EvaluateSpec
) -> Annotated[Drift, "drift"]:
    """Compare a model's own answers and predictions with the unpruned model's (regrow.evaluate.drift)."""
    with measured():
        started = datetime.now(UTC)
        result = drift.drift(base, model, spec, cache_folder() / "evaluation", name=name)
        folder = provenance.scratch()
        provenance.keep(state_drift(result, base, model, folder, started=started), folder)
        log_stage(f"measure_drift.{name}", result)
    return result
