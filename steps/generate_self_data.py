"""The dataset in the unpruned model's own words."""

from typing import Annotated

from zenml import step

from regrow import adapters, records
from regrow.checkpoint import Checkpoint
from regrow.selfdata import SelfData, SelfDataSpec, distill, engines, prompts, rewrite, rule
from regrow.source import DatasetSpec, origin, rows
from steps.caching import depends_on, self_data_files
from steps.tracking import log_stage
from steps.workspace import measured, work_dir


@step(
    experiment_tracker=True,
    cache_policy=depends_on(adapters, records, rows, prompts, engines, rewrite, rule, files=self_data_files),
)
def generate_self_data(
    base: Checkpoint, dataset: DatasetSpec, spec: SelfDataSpec
) -> Annotated[SelfData, "self_data"]:
    """Let the unpruned model rewrite every reference answer (regrow.selfdata)."""
    with measured():
        work = work_dir()
        reading = records.read_and_count(dataset)
        shards, counts = work / "shards", reading.counts()
        data = distill(
            base, reading.records, dataset.family, spec, work / "data", shards, counts, origin(dataset)
        )
        log_stage(f"generate_self_data.{dataset.name}", dataset, data)
    return data
