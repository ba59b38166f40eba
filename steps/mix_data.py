"""Sets that passed the gate, as one training set."""

from typing import Annotated

from zenml import step

from regrow.selfdata import SelfData, mix, mixture
from steps.caching import depends_on
from steps.tracking import log_stage
from steps.workspace import fresh, measured, work_dir


@step(experiment_tracker=True, cache_policy=depends_on(mixture))
def mix_data(accepted: list[SelfData], name: str, records: int | None) -> Annotated[SelfData, "mixed"]:
    """Join sets and keep so many of their records (regrow.selfdata.mixture)."""
    with measured():
        data = mix(accepted, fresh(work_dir() / "mixed"), records=records)
        log_stage(f"mix_data.{name}", data)
    return data
