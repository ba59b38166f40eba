"""A plan: which units of which checkpoint stay. Small, readable, and refused by any other checkpoint."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from regrow.errors import InputError
from regrow.files import read_json, write_json
from regrow.prune.units import Units, format_units


class KeptUnits(BaseModel):
    """The units of one kind that stay."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: int = Field(ge=1, description="how many there were before")
    kept: tuple[Units, ...] = Field(
        min_length=1, description="what stays: an entry for each kept block, or one for the whole model"
    )

    @property
    def count(self) -> int:
        """How many stay, the same in every block."""
        return len(self.kept[0])

    @model_validator(mode="after")
    def _uniform(self) -> "KeptUnits":
        counts = {len(units) for units in self.kept}
        if len(counts) > 1:
            raise ValueError(
                f"between {min(counts)} and {max(counts)} units stay in a block; every block must keep as many, "
                "or stock transformers and vLLM cannot load the model"
            )
        if not min(counts) or any(units[-1] >= self.of for units in self.kept):
            raise ValueError(f"at least one unit must stay, and all must be below {self.of}")
        return self


class PrunePlan(BaseModel):
    """Which units of which checkpoint stay. Units are numbered from 0 as in the checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    source_digest: str = Field(description="digest of the checkpoint that the plan was made for")
    depth: int = Field(ge=1, description="blocks before pruning")
    stack: str = Field("model.layers", description="what the checkpoint calls its blocks: stack.number")
    blocks: Units = Field(description="blocks that stay, as half-open ranges")
    neurons: KeptUnits | None = Field(None, description="MLP neurons, by kept block; null: all stay")
    groups: KeptUnits | None = Field(
        None, description="KV groups, each with its query heads, by kept block; null: all stay"
    )
    channels: KeptUnits | None = Field(
        None, description="channels of the residual stream, one entry; null: all stay"
    )
    criterion: str = Field(description="what chose the blocks; given: a person did")
    width_criterion: str | None = Field(None, description="what chose neurons, groups and channels")
    score: float | None = Field(None, description="the criterion's value for the removed blocks")
    seed: int | None = Field(None, description="seed of a random choice")

    @model_validator(mode="after")
    def _consistent(self) -> "PrunePlan":
        if not self.blocks or self.blocks[-1] >= self.depth:
            raise ValueError(f"at least one block must stay, and all must be below {self.depth}")
        for name in ("neurons", "groups"):
            units = getattr(self, name)
            if units and len(units.kept) != len(self.blocks):
                raise ValueError(f"{name}: {len(units.kept)} entries for {len(self.blocks)} kept blocks")
        if self.channels and len(self.channels.kept) != 1:
            raise ValueError("channels: one entry, the same for every block")
        return self

    @property
    def removed(self) -> tuple[int, ...]:
        """Blocks that go, in order."""
        return tuple(sorted(set(range(self.depth)) - set(self.blocks)))

    @property
    def removes_nothing(self) -> bool:
        """Whether every unit stays."""
        widths = (self.neurons, self.groups, self.channels)
        return not self.removed and all(units is None or units.count == units.of for units in widths)

    def describe(self) -> str:
        """Say in a sentence or two what goes, for people."""
        said = []
        if gone := self.removed:
            said.append(
                f"Removed {len(gone)} of {self.depth} blocks: {format_units(gone)} (counted from 0, half-open), "
                f"which is {name_blocks(self.stack, gone)}"
            )
        kinds = {
            "neurons": "MLP neurons in each block",
            "groups": "KV groups in each block",
            "channels": "channels",
        }
        for name, text in kinds.items():
            if units := getattr(self, name):
                said.append(f"Kept {units.count} of {units.of} {text}")
        return (". ".join(said) or "Nothing was removed") + "."

    def summary(self) -> dict[str, Any]:
        """Facts for metadata and logs."""
        widths = {name: getattr(self, name) for name in ("neurons", "groups", "channels")}
        return {
            "removed_blocks": format_units(self.removed),
            "kept_blocks": format_units(self.blocks),
            **{f"kept_{name}": units.count for name, units in widths.items() if units},
            "criterion": self.criterion,
            **({} if self.score is None else {"score": self.score}),
        }

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.model_dump())

    @classmethod
    def read(cls, path: Path) -> "PrunePlan":
        """Read a plan file.

        Raises:
            InputError: the file is missing or not a plan.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "plan"
            message = first["msg"].removeprefix("Value error, ")
            raise InputError(f"{path}: not a pruning plan ({where}: {message})") from None


def name_blocks(stack: str, blocks: Iterable[int]) -> str:
    """Return blocks by the names that they have in the checkpoint.

    >>> name_blocks("model.layers", [3, 13, 14, 15])
    'model.layers.3, model.layers.13 to model.layers.15'
    """
    parts = []
    for part in format_units(blocks).split(","):
        start, _, stop = part.partition(":")
        parts.append(f"{stack}.{start}" + (f" to {stack}.{int(stop) - 1}" if stop else ""))
    return ", ".join(parts)


def make_consistent(**fields: Any) -> PrunePlan:
    """Build a plan from a user's choice.

    Raises:
        InputError: the choice does not fit the model.
    """
    try:
        return PrunePlan(**fields)
    except ValidationError as error:
        message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"prune: {message}") from None
