"""A row of the gates' table."""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

# So many findings are told in a row.
_TOLD = 3


class Gate(BaseModel):
    """The outcome of one gate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    passed: bool
    observed: str = Field(description="what was found")
    asked: str = Field(description="what the policy asks for")


def told(found: Sequence[str], shows: str) -> str:
    """Say the first findings, and what shows the rest."""
    more = [f"and {len(found) - _TOLD} more ({shows} shows them)"] if len(found) > _TOLD else []
    return "; ".join([*found[:_TOLD], *more])
