"""The cut."""

from typing import Annotated

from zenml import step

from regrow import anatomy
from regrow import prune as pruning
from regrow.checkpoint import Checkpoint
from regrow.importance import LayerImportance
from regrow.prune import PrunePlan, PruneSpec
from steps.caching import depends_on
from steps.tracking import log_stage
from steps.workspace import fresh, measured, work_dir


@step(experiment_tracker=True, cache_policy=depends_on(pruning, anatomy))
def prune(
    base: Checkpoint, importance: LayerImportance, spec: PruneSpec
) -> tuple[Annotated[Checkpoint, "pruned"], Annotated[PrunePlan, "plan"]]:
    """Remove the blocks and units of width that `importance` ranks lowest (regrow.prune)."""
    with measured():
        plan = pruning.make_plan(base, spec, importance)
        pruned = pruning.apply(base, plan, fresh(work_dir() / "pruned"))
        log_stage("prune", plan, pruned)
    return pruned, plan
