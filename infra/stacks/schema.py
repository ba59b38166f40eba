"""What a stack file may say."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from infra.stacks.merging import merge
from regrow.errors import InputError
from regrow.parsing import parse

FOLDER = Path(__file__).parent
GPU = "nvidia.com/gpu"
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTP]i?)?$")]
Image = Literal["base", "tune", "generate", "evaluate"]
Engine = Literal["transformers", "vllm", "endpoint"]
# The kinds of which a stack has one; step operators it may have several.
KINDS = (
    "orchestrator",
    "artifact_store",
    "container_registry",
    "image_builder",
    "experiment_tracker",
    "model_registry",
)
# The stage whose work several pods can share.
SHARED = "fine_tune"
# The stage that an engine runs.
GENERATES = "generate_self_data"
# The functions in steps/, which this module has no need to import.
STAGES = (
    "collect_tuning",
    "compute_layer_importance",
    "decide_promotion",
    "evaluate",
    "fine_tune",
    "generate_self_data",
    "lay_out_tuning",
    "load_model",
    "measure_drift",
    "measure_shift",
    "measure_speed",
    "merge",
    "mix_data",
    "promote",
    "prune",
    "register",
    "tabulate",
    "validate_data",
)


class Strict(BaseModel):
    """A section whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Component(Strict):
    """One component of a stack, in ZenML's words."""

    flavor: str = Field(description="ZenML flavor")
    settings: dict[str, Any] = Field(
        {}, description="the component's configuration; values are merged over it"
    )
    needs: dict[str, str] = Field(
        {}, description="settings that only a values file can give: key (or `one or other`), and what it is"
    )


class Components(Strict):
    """The components of a stack."""

    orchestrator: Component
    artifact_store: Component
    container_registry: Component | None = None
    image_builder: Component | None = None
    experiment_tracker: Component | None = None
    model_registry: Component | None = None
    step_operators: dict[str, Component] = Field(
        {}, description="by name; the name is the component's in ZenML"
    )


class Resources(Strict):
    """What the container of a step asks for; it is also its limit, except for the CPU."""

    cpu: Quantity | None = Field(None, description="cores that are kept free for it")
    cpu_limit: Quantity | None = Field(None, description="most cores; no limit if not given")
    memory: Quantity | None = Field(None, description="bytes, as Kubernetes writes them (16Gi)")
    ephemeral_storage: Quantity | None = Field(
        None, description="bytes of the node's disk: about 3 checkpoints"
    )
    shm: Quantity | None = Field(None, description="size of /dev/shm, which counts as memory")
    gpus: int = Field(0, ge=0, description="whole GPUs")

    @property
    def pod(self) -> dict[str, dict[str, str]]:
        """The resources section of a container."""
        both = {
            "memory": self.memory,
            "ephemeral-storage": self.ephemeral_storage,
            GPU: str(self.gpus) if self.gpus else None,
        }
        found = {
            "requests": {"cpu": self.cpu, **both},
            "limits": {"cpu": self.cpu_limit, **both},
        }
        return {
            where: given
            for where, wanted in found.items()
            if (given := {key: value for key, value in wanted.items() if value is not None})
        }


class Stage(Strict):
    """How the steps of one stage run; the stage is the step's function."""

    image: Image = Field("base", description="which of the images")
    engines: dict[Engine, Image] = Field(
        {}, description="another image for an engine of generation: generate_self_data only"
    )
    step_operator: str | None = Field(None, description="step operator; the orchestrator itself if not given")
    resources: Resources = Field(Resources(), description="of the pod that does the work")
    pods: int = Field(1, ge=1, description="pods that share the work of one step: fine_tune only")
    pod: dict[str, Any] = Field({}, description="more of ZenML's pod settings")
    retries: int = Field(0, ge=0, description="tries after the first")
    grace: int = Field(30, ge=1, description="seconds between SIGTERM and SIGKILL: to save a checkpoint")
    environment: dict[str, str] = Field({}, description="variables of its pods, beside the stack's")

    def with_engine(self, engine: str | None) -> "Stage":
        """Return the stage with the image that an engine of generation wants."""
        engines: dict[Any, Image] = {**self.engines}
        return self.model_copy(update={"image": engines.get(engine, self.image)})


class StackFile(Strict):
    """A stack, and how the stages run on it."""

    name: str = Field(description="the file's name, and the stack's in ZenML")
    description: str = Field(description="one line")
    components: Components
    environment: dict[str, str] = Field({}, description="variables of every step")
    cache: str | None = Field(None, description="folder in the pods that outlives them")
    waiting: Resources = Field(
        Resources(), description="of a pod that only waits for what a step operator runs"
    )
    stages: dict[str, Stage] = Field({}, description="by step function; `default` stands for the others")

    @model_validator(mode="before")
    @classmethod
    def _stages_begin_with_the_default(cls, value: Any) -> Any:
        """What a stage leaves out is as in `default`."""
        if not isinstance(value, dict) or not isinstance(stages := value.get("stages"), dict):
            return value
        default = stages.get("default") or {}
        return value | {"stages": {name: merge(default, stage or {}) for name, stage in stages.items()}}

    @field_validator("stages")
    @classmethod
    def _stages_are_known(cls, value: dict[str, Stage]) -> dict[str, Stage]:
        if unknown := sorted(set(value) - {*STAGES, "default"}):
            raise ValueError(f"{unknown[0]}: no such step; there are default, {', '.join(STAGES)}")
        return value

    @model_validator(mode="after")
    def _what_is_of_one_stage_is_there(self) -> "StackFile":
        for name, stage in self.stages.items():
            if stage.engines and name != GENERATES:
                raise ValueError(f"stages.{name}.engines: only {GENERATES} has an engine")
            if stage.pods > 1:
                if name != SHARED:
                    raise ValueError(f"stages.{name}.pods: only {SHARED} is shared between pods")
                if not (stage.step_operator and self.cache):
                    raise ValueError(
                        f"stages.{name}.pods: several pods need a step operator of flavor kubernetes, which makes the "
                        "indexed Job, and `cache`, a volume that all of them mount"
                    )
        return self

    @property
    def remote(self) -> bool:
        """Whether its steps run on other machines."""
        return self.components.orchestrator.flavor != "local"

    def stage(self, function: str) -> Stage:
        """Return how the steps of a function run."""
        return self.stages.get(function) or self.stages.get("default") or Stage()


def names() -> list[str]:
    """Return the names of the stack files."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def load(name: str) -> StackFile:
    """Read a stack file.

    Raises:
        InputError: there is none of that name, or a key in it is unknown, missing or out of range.
    """
    path = FOLDER / f"{name}.yaml"
    if name not in names():
        raise InputError(f"{name}: no such stack file; there are {', '.join(names())} (infra/stacks)")
    return parse(StackFile, yaml.safe_load(path.read_text(encoding="utf-8")), f"infra/stacks/{path.name}")
