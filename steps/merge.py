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
    tuned: list[Checkpoint], spec: MergeSpec
) -> tuple[Annotated[Checkpoint, "merged"], Annotated[dict[str, Any], "merging"]]:
    """Interpolate the tuned models tensor by tensor (regrow.merge)."""
    with measured():
        result = merging.merge_many(tuned, spec, fresh(work_dir() / "merged"))
        facts = spec.model_dump(mode="json") | result.model_dump(mode="json", exclude={"checkpoint"})
        log_stage("merge", facts, result.checkpoint)
    return result.checkpoint, facts
