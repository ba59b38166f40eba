"""The recipes: plain training runs (sft, distill), and chains of them (teacher_correction, continual)."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from regrow.tune.recipe.trainable import Lora, Trainable


class Training(BaseModel):
    """What every single training run is told: data, weights, optimiser, budget, checkpoints."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    responses: Literal["self", "reference"] = Field(
        default="self",
        description="self: the column `response` (self-data distillation); reference: the dataset's answers",
    )
    loss_on: Literal["response", "all"] = Field(
        default="response",
        description="tokens with a loss: the response's (completion-only), or the prompt's too",
    )
    trainable: Trainable = Field(default_factory=Lora, description="the weights that are trained")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="peak learning rate of AdamW; none: 1e-3 for lora, rslora, dora, qlora and bitfit, "
        "1e-2 for prefix, 1e-4 for head_and_last_k, 2e-5 for full",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="course of the learning rate after warm-up"
    )
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1, description="share of steps in linear warm-up")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay of what is trained")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this 2-norm")
    epochs: float = Field(
        default=1.0,
        gt=0,
        description="passes over the data, rounded up to whole steps; ignored with max_steps or max_tokens",
    )
    max_steps: int | None = Field(
        default=None, ge=1, description="optimiser steps; the data repeat as needed"
    )
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="tokens trained on, prompts included, to the next whole step; the data repeat as needed",
    )
    batch_size: int = Field(
        default=8, ge=1, description="examples in one optimiser step, over all processes and forward passes"
    )
    micro_batch_size: int | Literal["auto"] | None = Field(
        default=None,
        description="examples in one forward pass of one process; none: all of its share at once; auto: as many as "
        "fit into memory. The rest is accumulated: a step always has batch_size examples",
    )
    packing: bool = Field(
        default=False,
        description="the examples of a forward pass lie end to end in one row without padding, none seeing another; "
        "else they are padded to the longest. The loss is the same",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="compute each block's activations twice instead of keeping them: less memory, slower",
    )
    max_length: int = Field(default=1024, ge=8, description="tokens of prompt and response together")
    too_long: Literal["truncate", "drop"] = Field(
        default="truncate", description="what happens to examples over max_length; both are counted"
    )
    seed: int = Field(default=0, ge=0, description="seed of adapter, order of examples and dropout")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto",
        description="type that is computed in, and of the frozen weights; auto: the stored one where the hardware has "
        "it, else float32. What is trained is float32",
    )
    save_every: int = Field(
        default=50, ge=1, description="optimiser steps between checkpoints of an unfinished run"
    )
    keep: int = Field(
        default=2, ge=1, description="checkpoints of an unfinished run that are kept, the latest ones"
    )
    diverges_at: float = Field(
        default=3.0,
        gt=1,
        description="the run stops when the mean loss of 10 steps is this many times the lowest such mean so far",
    )

    @model_validator(mode="after")
    def _one_budget(self) -> "Training":
        if self.max_steps is not None and self.max_tokens is not None:
            raise ValueError("max_steps and max_tokens are both set; keep one")
        if isinstance(self.micro_batch_size, int) and (
            self.micro_batch_size < 1 or self.batch_size % self.micro_batch_size
        ):
            raise ValueError(
                f"micro_batch_size {self.micro_batch_size} does not divide batch_size {self.batch_size}"
            )
        return self

    @property
    def rate(self) -> float:
        """Peak learning rate."""
        return self.learning_rate or self.trainable.rate

    @property
    def column(self) -> str:
        """The column of the data that holds what the model learns to say."""
        return "response" if self.responses == "self" else "reference"


class Sft(Training):
    """Next-token loss on the response: plain fine-tuning, or self-data distillation (arXiv 2410.09982)."""

    method: Literal["sft"] = "sft"


class _Logits(Training):
    temperature: float = Field(
        default=1.0,
        gt=0,
        description="both distributions are softened by it; the loss is scaled by its square",
    )
    teacher: Literal["online", "top_k"] = Field(
        default="online",
        description="online: the teacher runs beside the student; top_k: its top_k log-probabilities are written "
        "first, the teacher is freed, and the mass of the rest counts as one outcome",
    )
    top_k: int = Field(
        default=64, ge=1, description="log-probabilities kept of each position, for teacher: top_k"
    )
    hidden_states: bool = Field(
        default=False,
        description="also match the states after the third-last block, by cosine (Minitron: last-2 to last-2); for "
        "cuts of a third of the blocks and more",
    )
    embeddings: bool = Field(
        default=False, description="also match the embeddings' outputs, by cosine (Minitron)"
    )

    @model_validator(mode="after")
    def _states_need_the_teacher(self) -> "_Logits":
        if self.teacher == "top_k" and (self.hidden_states or self.embeddings):
            raise ValueError("hidden_states and embeddings need teacher: online; top_k keeps logits alone")
        return self


class Distill(_Logits):
    """Forward KL to the unpruned teacher's distribution on the same tokens (Minitron, arXiv 2407.14679, 2408.11796).

    No next-token loss is added (2408.11796, section on distillation). The hidden-state terms are weighted
    so that they count as much as the logits' (2407.14679: alpha = L_logits / L_is, taken anew at each forward pass).
    """

    method: Literal["distill"] = "distill"


class TeacherCorrection(_Logits):
    """A short tuning of the unpruned teacher on the distillation set, then distillation from it (2408.11796)."""

    method: Literal["teacher_correction"] = "teacher_correction"
    correction: Sft = Field(
        default_factory=lambda: Sft(learning_rate=2e-4),
        description="how the teacher is tuned first; the papers take a fifth of the usual learning rate",
    )

    def distillation(self) -> Distill:
        """The second phase."""
        return Distill(**self.model_dump(exclude={"method", "correction"}))


METHODS = ("sft", "distill", "teacher_correction", "continual")


def _method(value: Any) -> str:
    return str(value.get("method", "sft") if isinstance(value, dict) else getattr(value, "method", ""))


def _by_method(*methods: str) -> Discriminator:
    return Discriminator(
        _method,
        custom_error_type="unknown_method",
        custom_error_message=f"unknown method; choose among {', '.join(methods)}",
    )


# A single training run.
Phase = Annotated[
    Annotated[Sft, Tag("sft")] | Annotated[Distill, Tag("distill")], _by_method("sft", "distill")
]


class Replay(BaseModel):
    """Examples of the first phase that the second one sees again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(default=0.1, ge=0, lt=1, description="share of the second phase's examples")
    source: Literal["generated", "records"] = Field(
        default="generated",
        description="generated: the model of the first phase answers the first set's instructions anew; records: the "
        "first set's own responses",
    )
    max_new_tokens: int = Field(default=256, ge=1, description="longest generated answer, in tokens")


class Freeze(BaseModel):
    """Decoder blocks that the second phase leaves alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    most_changed: int = Field(
        default=0,
        ge=0,
        description="that many blocks, those whose weights the first phase changed most (relative 2-norm)",
    )
    blocks: tuple[int, ...] = Field(default=(), description="these blocks, 0-based")


class Continual(BaseModel):
    """Two phases on two sets, such as English, then multilingual (arXiv 2410.16006), against forgetting."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["continual"] = "continual"
    first: Phase = Field(default_factory=Sft, description="recipe of the first phase")
    second: Phase = Field(default_factory=Sft, description="recipe of the second phase")
    replay: Replay = Field(default_factory=Replay, description="examples of the first phase in the second")
    freeze: Freeze = Field(default_factory=Freeze, description="blocks that the second phase leaves alone")

    @model_validator(mode="after")
    def _phases_merge(self) -> "Continual":
        if not (self.first.trainable.mergeable and self.second.trainable.mergeable):
            raise ValueError("prefix cannot be merged; the second phase starts from the first one's weights")
        frozen = self.freeze.most_changed or self.freeze.blocks
        if frozen and self.second.trainable.kind not in ("lora", "rslora", "dora", "qlora", "full"):
            raise ValueError(
                f"freeze needs lora or full in the second phase, not {self.second.trainable.kind}"
            )
        return self


Recipe = Annotated[
    Annotated[Sft, Tag("sft")]
    | Annotated[Distill, Tag("distill")]
    | Annotated[TeacherCorrection, Tag("teacher_correction")]
    | Annotated[Continual, Tag("continual")],
    _by_method(*METHODS),
]


def needs_teacher(recipe: "Sft | Distill | TeacherCorrection | Continual") -> bool:
    """Whether the recipe learns from the unpruned model's logits."""
    if isinstance(recipe, Continual):
        return needs_teacher(recipe.first) or needs_teacher(recipe.second)
    return isinstance(recipe, _Logits)
