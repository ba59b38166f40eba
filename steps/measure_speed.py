"""What pruning saved, measured."""

from datetime import UTC, datetime
from typing import Annotated

from zenml import step

from regrow.checkpoint import Checkpoint
from regrow.evaluate import EvaluateSpec, Measures, measure_costs, speculative, speed, turns
from regrow.lineage.values import state_speed
from steps import provenance
from steps.caching import depends_on
from steps.tracking import log_stage
from steps.workspace import cache_folder, measured


@step(experiment_tracker=True, cache_policy=depends_on(speed, turns, speculative))
def measure_speed(
    base: Checkpoint, pruned: Checkpoint, spec: EvaluateSpec
) -> Annotated[Measures, "measures"]:
    """Time the unpruned and the pruned model in turns, and let the one draft for the other (regrow.evaluate)."""
    with measured():
        started = datetime.now(UTC)
        result = measure_costs(base, {"pruned": pruned}, spec, cache_folder() / "evaluation")
        folder = provenance.scratch()
        provenance.keep(state_speed(result, [base, pruned], spec, folder, started=started), folder)
        log_stage("measure_speed", result)
    return result
