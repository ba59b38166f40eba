"""The configuration of a whole run: the `parameters` section of a ZenML run-configuration file.

Everything else in the file (settings, steps, model, schedule) is ZenML's own and is checked by ZenML.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from regrow.errors import InputError
from regrow.evaluate.spec import EvaluateSpec, TaskSpec
from regrow.importance import ImportanceSpec
from regrow.merge import MergeSpec
from regrow.parsing import parse
from regrow.prune import PruneSpec
from regrow.quality import GateSpec
from regrow.registry import RegistrySpec
from regrow.selfdata import SelfDataSpec, ShiftSpec
from regrow.source import DatasetSpec, ModelSpec, TextSpec, pin
from regrow.tune.recipe import Continual, Recipe, Sft

C = TypeVar("C", bound="Ingredients")


class DatasetConfig(DatasetSpec):
    """An instruction set, and what is done differently for it."""

    self_data: SelfDataSpec | None = Field(None, description="replaces the run's self_data for this set")
    gate: GateSpec | None = Field(None, description="replaces the run's gate for this set")
    tune: Recipe | None = Field(None, description="replaces the run's tune for this set")


class Ingredients(BaseModel):
    """What every pipeline that compresses starts from: a model, data, and how both are looked at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelSpec = Field(description="the model to compress")
    calibration: TextSpec = Field(description="texts that importance is measured on")
    importance: ImportanceSpec = Field(
        default_factory=lambda: ImportanceSpec(), description="the measurement"
    )
    datasets: list[DatasetConfig] = Field(min_length=1, description="instruction sets")
    self_data: SelfDataSpec = Field(
        default_factory=lambda: SelfDataSpec(), description="how answers are rewritten"
    )
    gate: GateSpec = Field(default_factory=lambda: GateSpec(), description="what the data must satisfy")
    evaluation: EvaluateSpec = Field(description="tasks and perplexity, the same for every model")
    merge: MergeSpec = Field(default_factory=lambda: MergeSpec(), description="how tuned models are merged")

    @field_validator("datasets")
    @classmethod
    def _names_differ(cls, datasets: list[DatasetConfig]) -> list[DatasetConfig]:
        names = [dataset.name for dataset in datasets]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the name {twice[0]!r} is used twice; each dataset needs its own")
        return datasets

    def pinned(self) -> Self:
        """Return the configuration with the content of every local file written into it.

        A step's cache key holds its parameters: with the SHA-256 of a local file among them, an edited file
        is not taken for the one that was cached.

        Raises:
            InputError: a named file or folder is missing.
        """
        return self.model_copy(
            update={
                "model": pin(self.model),
                "calibration": pin(self.calibration),
                "importance": _pinned_importance(self.importance),
                "datasets": [pin(dataset) for dataset in self.datasets],
                "evaluation": _pinned_evaluation(self.evaluation),
            }
        )


class CompressConfig(Ingredients):
    """Every parameter of the compress pipeline; each dataset gives one tuned model."""

    prune: PruneSpec = Field(default_factory=lambda: PruneSpec(blocks=6), description="how much is removed")
    shift: ShiftSpec = Field(
        default_factory=lambda: ShiftSpec(), description="how far the rewrites lie from the unpruned model"
    )
    tune: Recipe = Field(default_factory=lambda: Sft(), description="how the pruned model is fine-tuned")
    registry: RegistrySpec = Field(description="where the best candidate is registered")

    @model_validator(mode="after")
    def _every_branch_ends_in_a_model(self) -> "CompressConfig":
        for where, recipe in [
            ("tune", self.tune),
            *((f"datasets.{d.name}.tune", d.tune) for d in self.datasets),
        ]:
            if isinstance(recipe, Continual):
                raise ValueError(
                    f"{where}.method continual takes two sets; use `regrow tune --data A --data B`"
                )
            if recipe is not None and not recipe.trainable.mergeable:
                raise ValueError(
                    f"{where}.trainable.kind {recipe.trainable.kind} leaves no checkpoint to evaluate; use "
                    "`regrow tune`, or take lora"
                )
        return self

    @model_validator(mode="after")
    def _the_cut_can_be_chosen(self) -> "CompressConfig":
        check_cut(self.prune, self.importance)
        return self

    def pinned(self) -> Self:
        """Return the configuration with the content of every local file written into it (see Ingredients)."""
        return super().pinned().model_copy(update={"shift": _pinned_shift(self.shift)})


def check_cut(cut: PruneSpec, measured: ImportanceSpec) -> None:
    """Raise unless what a cut needs is measured: that it is not would show only after a model was downloaded.

    Raises:
        ValueError: names what is missing.
    """
    search = measured.search
    if cut.criterion in ("perplexity", "task", "greedy"):
        if search is None or cut.criterion not in search.criteria:
            raise ValueError(
                f"prune.criterion {cut.criterion} is not measured; add it to importance.search.criteria"
            )
        fits = cut.blocks in search.sizes or (
            cut.criterion == "greedy" and (cut.blocks or 0) <= max(search.sizes)
        )
        if cut.blocks is not None and not fits:
            raise ValueError(
                f"prune.blocks {cut.blocks} is not among importance.search.sizes {list(search.sizes)}"
            )
    if cut.criterion == "angular_distance_all_tokens" and not measured.all_tokens:
        raise ValueError(
            "prune.criterion angular_distance_all_tokens is not measured; set importance.all_tokens"
        )
    if cut.needs_width and not measured.width:
        raise ValueError("prune removes width, which is not measured; set importance.width")


def _pinned_shift(spec: ShiftSpec) -> ShiftSpec:
    return spec.model_copy(update={"encoder": pin(spec.encoder)}) if spec.encoder else spec


def _pinned_importance(spec: ImportanceSpec) -> ImportanceSpec:
    if spec.search is None or spec.search.task is None:
        return spec
    search = spec.search.model_copy(update={"task": _pinned_task(spec.search.task)})
    return spec.model_copy(update={"search": search})


def _pinned_evaluation(spec: EvaluateSpec) -> EvaluateSpec:
    tasks = tuple(_pinned_task(task) for task in spec.tasks)
    text = None if spec.perplexity is None else pin(spec.perplexity)
    more = tuple(pin(one) for one in spec.more_texts)
    answers = spec.answers and spec.answers.model_copy(update={"prompts": pin(spec.answers.prompts)})
    return spec.model_copy(
        update={"tasks": tasks, "perplexity": text, "more_texts": more, "answers": answers}
    )


def _pinned_task(task: TaskSpec) -> TaskSpec:
    pins = {}
    for source, digest in (("source", "sha256"), ("fewshot_source", "fewshot_sha256")):
        if where := getattr(task, source):
            # {subset} stands for several files: only a single one can be pinned by its content.
            whole = TextSpec(name=task.name, source=where, sha256=getattr(task, digest))
            pins[digest] = whole.sha256 if "{subset}" in where else pin(whole).sha256
    return task.model_copy(update=pins)


def read_config(path: Path, kind: type[C]) -> tuple[C, dict[str, Any]]:
    """Read a run configuration.

    Args:
        path: a ZenML run-configuration file.
        kind: the pipeline's parameters.

    Returns:
        The checked parameters, and the whole file as ZenML takes it.

    Raises:
        InputError: not YAML, an unknown key, or a value out of its range; the message names file and key.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; configurations that come with regrow are in configs/"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(loaded, Mapping) or not isinstance(loaded.get("parameters"), Mapping):
        raise InputError(f"{path}: no `parameters` section; see configs/demo.yaml")
    return parse(kind, loaded["parameters"], f"{path}: parameters"), dict(loaded)
