"""What a study runs: arms x block sizes x sizes of the training set x seeds.

An arm says what happens to the pruned model. Arms share everything else: the cut, the rewritten and checked data, the
recipe, the evaluation. A cell is one arm at one block size, one size of the training set and one seed.
"""

import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from regrow.config import Ingredients, check_cut
from regrow.errors import InputError
from regrow.importance import Criterion
from regrow.parsing import parse
from regrow.prune import PruneSpec
from regrow.tune.recipe import Continual, Recipe, needs_teacher

# Names become part of the names of steps.
_NAME = r"^[A-Za-z0-9][A-Za-z0-9 ,_-]*$"


class Arm(BaseModel):
    """One way to treat the pruned model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=_NAME, max_length=40, description="name in tables and of steps")
    tune: dict[str, Any] | None = Field(
        None,
        description="what this arm changes in the study's recipe (method, responses, ...); null: no fine-tuning",
    )
    data: Literal["mixed", "each"] = Field(
        "mixed",
        description="mixed: one model, trained on all datasets together; each: one model for each dataset, with its "
        "share of the budget, and the models merged",
    )

    @model_validator(mode="after")
    def _tuned_if_merged(self) -> "Arm":
        if self.tune is None and self.data == "each":
            raise ValueError("data: each merges tuned models; give tune (an empty mapping changes nothing)")
        return self


def slug(name: str) -> str:
    """An arm's name as it stands in the names of steps and metrics."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", name)


class Cell(BaseModel):
    """One model of a study."""

    model_config = ConfigDict(frozen=True)

    blocks: int = Field(description="blocks removed")
    arm: str = Field(description="name of the arm")
    records: int | None = Field(description="examples trained on; null: all, or none for an untuned arm")
    seed: int | None = Field(description="seed of training; null for an untuned arm")

    @property
    def key(self) -> str:
        """A name for steps and folders that no other cell of the study has."""
        parts = [f"{self.blocks}-blocks", slug(self.arm)]
        parts += [] if self.records is None else [f"{self.records}-records"]
        parts += [] if self.seed is None else [f"seed-{self.seed}"]
        return ".".join(parts)


class StudyConfig(Ingredients):
    """Every parameter of the study pipeline."""

    criterion: Criterion = Field("angular_distance", description="what chooses the blocks")
    blocks: tuple[int, ...] = Field(min_length=1, description="numbers of blocks that are removed")
    arms: tuple[Arm, ...] = Field(min_length=1, description="ways to treat the pruned model")
    records: tuple[int | None, ...] = Field(
        (None,),
        min_length=1,
        description="sizes of the training set, in records of all datasets together; null: all",
    )
    seeds: tuple[int, ...] = Field(
        (0, 1, 2), min_length=1, description="seeds of training; data are made once"
    )
    tune: dict[str, Any] = Field(
        default_factory=dict, description="what the arms' recipes share (regrow.tune.Recipe)"
    )
    reference: str | None = Field(
        None, description="arm that every other is compared with; not given: the first tuned one"
    )

    @field_validator("blocks", "records", "seeds", "arms")
    @classmethod
    def _no_twins(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [slug(one.name) if isinstance(one, Arm) else one for one in values]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} is listed twice")
        return values

    @field_validator("blocks", "records")
    @classmethod
    def _above_zero(cls, values: tuple[int | None, ...]) -> tuple[int | None, ...]:
        if any(value is not None and value < 1 for value in values):
            raise ValueError("every number must be at least 1")
        return values

    @model_validator(mode="after")
    def _arms_can_run(self) -> "StudyConfig":
        for blocks in self.blocks:
            check_cut(self.cut(blocks), self.importance)
        names = [arm.name for arm in self.arms]
        if self.reference is not None and self.reference not in names:
            raise ValueError(f"reference {self.reference!r} is no arm; the arms are {', '.join(names)}")
        for dataset in self.datasets:
            if dataset.tune is not None:
                raise ValueError(f"datasets.{dataset.name}.tune: arms decide on recipes; remove it")
        for arm in self.arms:
            if arm.tune is not None:
                try:
                    self._check(arm)
                except InputError as error:
                    raise ValueError(str(error)) from None
        return self

    def _check(self, arm: Arm) -> None:
        recipe = self.recipe(arm, self.seeds[0])
        if isinstance(recipe, Continual):
            raise InputError(
                f"arms.{arm.name}.tune.method: continual takes two sets in order; a study mixes them"
            )
        if not recipe.trainable.mergeable:
            raise InputError(
                f"arms.{arm.name}.tune.trainable: {recipe.trainable.kind} leaves no checkpoint to evaluate"
            )

    def cut(self, blocks: int) -> PruneSpec:
        """Return what removes so many blocks."""
        return PruneSpec(blocks=blocks, criterion=self.criterion)

    def recipe(self, arm: Arm, seed: int, *, share: float = 1.0) -> Recipe:
        """Return the recipe of a run.

        Args:
            arm: a tuned arm.
            seed: of adapter, order of examples and dropout.
            share: of the budget in steps or tokens, where the recipe has one; a budget in epochs follows the data.

        Raises:
            InputError: the fields of the study and of the arm do not make a recipe.
        """
        kind: Any = Recipe
        fields = {"method": "sft"} | self.tune | (arm.tune or {}) | {"seed": seed}
        recipe = parse(kind, fields, f"arms.{arm.name}.tune")
        budgets = {
            name: max(1, round(share * value))
            for name in ("max_steps", "max_tokens")
            if (value := getattr(recipe, name, None)) is not None
        }
        return recipe.model_copy(update=budgets)

    def cells(self) -> Iterator[tuple[Cell, Arm]]:
        """Yield every cell with its arm, by block size, size of the training set, seed, arm."""
        for blocks in self.blocks:
            for arm in self.arms:
                if arm.tune is None:
                    yield Cell(blocks=blocks, arm=arm.name, records=None, seed=None), arm
            for records in self.records:
                for seed in self.seeds:
                    for arm in self.arms:
                        if arm.tune is not None:
                            yield Cell(blocks=blocks, arm=arm.name, records=records, seed=seed), arm

    @property
    def compared_with(self) -> str | None:
        """The arm that the others are compared with."""
        tuned = [arm.name for arm in self.arms if arm.tune is not None]
        return self.reference or next(iter(tuned), None)

    def teacher_needed(self, arm: Arm) -> bool:
        """Whether an arm learns from the unpruned model itself."""
        return needs_teacher(self.recipe(arm, self.seeds[0]))
