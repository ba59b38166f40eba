"""Whether the rewrites lie closer to the unpruned model than the references that they replaced."""

from datetime import UTC, datetime
from typing import Annotated

from zenml import step

from regrow.checkpoint import Checkpoint
from regrow.lineage.values import state_shift
from regrow.selfdata import SelfData, Shift, ShiftSpec, prompts, shift
from steps import provenance
from steps.caching import depends_on
from steps.tracking import log_stage
from steps.workspace import measured


@step(experiment_tracker=True, cache_policy=depends_on(shift, prompts))
def measure_shift(data: SelfData, base: Checkpoint, name: str, spec: ShiftSpec) -> Annotated[Shift, "shift"]:
    """Compare rewrites with references under the unpruned model (regrow.selfdata.shift)."""
    with measured():
        started = datetime.now(UTC)
        result = shift.measure(base, data, name, spec)
        folder = provenance.scratch()
        provenance.keep(state_shift(result, data, base, spec, folder, started=started), folder)
        log_stage(f"measure_shift.{name}", spec, result)
    return result
