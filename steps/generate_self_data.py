"""The dataset in the unpruned model's own words."""

from typing import Annotated

from zenml import step

from regrow.checkpoint import Checkpoint
from regrow.records import read_records
from regrow.selfdata import SelfData, SelfDataSpec, answers, distill, engines, prompts, rewrite, rule
from regrow.source import DatasetSpec
from steps.caching import depends_on, templates
from steps.tracking import log_stage
from steps.workspace import measured, work_dir


@step(
    experiment_tracker=True,
    cache_policy=depends_on(prompts, engines, answers, rewrite, rule, files=templates),
)
def generate_self_data(
    base: Checkpoint, dataset: DatasetSpec, spec: SelfDataSpec
) -> Annotated[SelfData, "self_data"]:
    """Let the unpruned model rewrite every reference answer (regrow.selfdata)."""
    with measured():
        work = work_dir()
        records = read_records(dataset)
        data = distill(base, records, dataset.family, spec, work / "data", work / "shards")
        log_stage(f"generate_self_data.{dataset.name}", dataset, data)
    return data
