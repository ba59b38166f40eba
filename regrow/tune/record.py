"""What remains of a fine-tuning run beside its weights."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class TuningRecord(BaseModel):
    """How one model was tuned: the course of the loss, and the counts and settings."""

    model_config = ConfigDict(frozen=True)

    dataset: str = Field(description="name of the instruction set")
    digest: str = Field(description="digest of the tuned checkpoint")
    log: list[dict[str, Any]] = Field(description="one entry a step, as in `regrow.tune.Tuned.log`")
    summary: dict[str, Any] = Field(description="as in `regrow.tune.Tuned.summary`")
