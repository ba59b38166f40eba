"""What a fine-tuning run is told: the method, the adapter, the optimiser, the budget."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class LoraSpec(BaseModel):
    """A low-rank adapter: `W + (alpha / r) B A` on the chosen linear layers (LoRA, arXiv 2106.09685)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    r: int = Field(default=16, ge=1, description="rank of the update of each weight matrix")
    alpha: float = Field(default=32, gt=0, description="scale of the update; it is multiplied by alpha / r")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of adapter inputs dropped in training")
    target_modules: Literal["all-linear"] | list[str] = Field(
        default="all-linear",
        description="names of the linear layers that get an adapter; all-linear: each but the output head",
    )

    @model_validator(mode="after")
    def _targets(self) -> "LoraSpec":
        if not self.target_modules:
            raise ValueError("target_modules is empty; name linear layers (q_proj, down_proj) or all-linear")
        return self


class Recipe(BaseModel):
    """How one model is tuned on one dataset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["sft"] = Field(default="sft", description="sft: next-token loss on the response")
    responses: Literal["self", "reference"] = Field(
        default="self",
        description="self: the column `response` (self-data distillation); reference: the dataset's answers",
    )
    lora: LoraSpec = Field(default_factory=LoraSpec, description="the adapter that is trained")
    learning_rate: float = Field(default=1e-3, gt=0, description="peak learning rate of AdamW")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="course of the learning rate after warm-up"
    )
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1, description="share of steps in linear warm-up")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay of the adapter")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this 2-norm")
    epochs: float = Field(default=1.0, gt=0, description="passes over the data; ignored with max_steps")
    max_steps: int | None = Field(
        default=None, ge=1, description="optimiser steps; the data repeat as needed"
    )
    batch_size: int = Field(default=8, ge=1, description="examples in one forward pass of one process")
    gradient_accumulation: int = Field(default=1, ge=1, description="forward passes in one optimiser step")
    max_length: int = Field(default=1024, ge=8, description="tokens of prompt and response together")
    too_long: Literal["truncate", "drop"] = Field(
        default="truncate", description="what happens to examples over max_length; both are counted"
    )
    seed: int = Field(default=0, ge=0, description="seed of adapter, order of examples and dropout")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto",
        description="type of the frozen weights in training; auto: the stored one where the hardware has it, "
        "else float32. The adapter is always float32",
    )
    save_every: int = Field(
        default=50, ge=1, description="optimiser steps between checkpoints of an unfinished run"
    )

    @property
    def column(self) -> str:
        """The column of the data that holds what the model learns to say."""
        return "response" if self.responses == "self" else "reference"
