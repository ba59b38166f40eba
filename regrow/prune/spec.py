"""How much is removed, and what chooses it."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from regrow.importance.choose import Criterion
from regrow.prune.units import Units

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def parse_count(value: Any) -> Any:
    """Return the number that a text such as "6.7B", "135M" or "1000" names.

    Raises:
        ValueError: not such a number.
    """
    if not isinstance(value, str):
        return value
    found = re.match(r"^(\d+(?:\.\d+)?)([KMBT]?)$", value.strip().upper())
    if not found:
        raise ValueError(f"{value!r} is not a number of parameters; write it as 6.7B, 135M or 6700000000")
    return round(float(found[1]) * _UNITS[found[2]])


class PruneSpec(BaseModel):
    """What is removed: blocks, width, or both; by number, or as much as it takes to reach a size."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    blocks: int | None = Field(None, ge=1, description="number of blocks to remove")
    drop: Units | None = Field(
        None, description="blocks to remove, from 0, half-open: 13:19, or a set such as 5,13:17"
    )
    criterion: Criterion = Field("angular_distance", description="what chooses the blocks")
    neurons: int | None = Field(None, ge=1, description="MLP neurons that stay in each block")
    groups: int | None = Field(
        None, ge=1, description="KV groups (key/value heads with their query heads) that stay in each block"
    )
    channels: int | None = Field(None, ge=1, description="channels of the residual stream that stay")
    to_params: Annotated[int, BeforeValidator(parse_count)] | None = Field(
        None, ge=1, description="parameters of the pruned model, such as 6.7B; the nearest size is taken"
    )
    to_ratio: float | None = Field(
        None, gt=0, lt=1, description="parameters of the pruned model over the unpruned one's"
    )
    by: Literal["depth", "neurons", "groups", "channels", "width"] = Field(
        "depth",
        description="what is removed to reach to_params or to_ratio; width: neurons and channels alike",
    )
    seed: int = Field(0, description="seed of the criterion `random`")

    @model_validator(mode="after")
    def _one_way(self) -> "PruneSpec":
        target = [name for name in ("to_params", "to_ratio") if getattr(self, name) is not None]
        if len(target) == 2:
            raise ValueError("to_params and to_ratio: give one of them")
        if self.blocks is not None and self.drop is not None:
            raise ValueError("blocks and drop: give one of them")
        decided = {
            "depth": ("blocks", "drop"),
            "width": ("neurons", "channels"),
        }.get(self.by, (self.by,))
        for name in decided if target else ():
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name} cannot be given when {target[0]} decides it; set `by` to another kind"
                )
        given = (self.blocks, self.drop, self.neurons, self.groups, self.channels, *target)
        if all(value is None for value in given):
            raise ValueError(
                "nothing says what to remove; give blocks, drop, neurons, groups, channels, to_params or to_ratio"
            )
        return self

    @property
    def needs_importance(self) -> bool:
        """Whether a measurement of importance must choose something."""
        by_depth = self.blocks is not None or (self._has_target and self.by == "depth")
        return (by_depth and self.criterion not in ("reverse", "random")) or self.needs_width

    @property
    def needs_width(self) -> bool:
        """Whether units of width are removed."""
        given = any(value is not None for value in (self.neurons, self.groups, self.channels))
        return given or (self._has_target and self.by != "depth")

    @property
    def _has_target(self) -> bool:
        return self.to_params is not None or self.to_ratio is not None
