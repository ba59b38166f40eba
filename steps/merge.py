"""The tuned models become one."""

from typing import Annotated, Any

from zenml import step

from regrow import merge as merging
from regrow.checkpoint import Checkpoint
from regrow.merge import MergeSpec
from steps.caching import depends_on
from steps.tracking import log_stage
from steps.workspace import fresh, measured, work_dir


@step(experiment_tracker=True, cache_policy=depends_on(merging))
def merge(
    tuned: list[Checkpoint], spec: MergeSpec, pruned: Checkpoint
) -> tuple[Annotated[Checkpoint, "merged"], Annotated[dict[str, Any], "merging"]]:
    """Merge the tuned models, which all come from the pruned one, tensor by tensor (regrow.merge)."""
    with measured():
        result = merging.merge(
            tuned, spec, fresh(work_dir() / "merged"), base=pruned if spec.takes_base else None
        )
        facts = spec.model_dump(mode="json", exclude_none=True) | result.model_dump(
            mode="json", exclude={"checkpoint", "spec"}, exclude_none=True
        )
        log_stage("merge", facts, result.checkpoint)
    return result.checkpoint, facts
