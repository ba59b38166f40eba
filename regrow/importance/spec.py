"""How importance is measured."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from regrow.evaluate.spec import TaskSpec


class SearchSpec(BaseModel):
    """Criteria that run the model again and again with blocks left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    criteria: tuple[Literal["perplexity", "task", "greedy"], ...] = Field(
        min_length=1,
        description="perplexity: of the calibration texts without each run of blocks; task: score of `task` without "
        "each run; greedy: one block after the other, up to the largest size",
    )
    sizes: tuple[int, ...] = Field(min_length=1, description="numbers of blocks that are left out")
    task: TaskSpec | None = Field(None, description="lm-eval task of the criterion `task`")
    texts: int | None = Field(
        None,
        ge=1,
        description="calibration texts that perplexity and greedy read, the longest; not given: all",
    )

    @model_validator(mode="after")
    def _complete(self) -> "SearchSpec":
        if min(self.sizes) < 1:
            raise ValueError("sizes: at least 1 block has to be left out")
        if ("task" in self.criteria) != (self.task is not None):
            raise ValueError("task: the criterion `task` needs a task of lm-eval, and only that one")
        return self


class ImportanceSpec(BaseModel):
    """How the importance of blocks and of units of width is measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: int = Field(256, ge=2, description="tokens kept of each calibration text")
    batch_size: int = Field(8, ge=1, description="texts in one forward pass")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="torch type of the forward pass; auto: the stored one, but float32 on a CPU without bfloat16 "
        "arithmetic",
    )
    all_tokens: bool = Field(
        False, description="also average the angular distance over all tokens, not only the last"
    )
    width: bool = Field(True, description="also score neurons, KV groups and channels")
    skip_first: int = Field(
        0,
        ge=0,
        description="leading tokens of each text that means over all tokens leave out; 1 leaves out the attention "
        "sink, whose state is an outlier in most models",
    )
    placement: Literal["auto", "whole", "blocks"] = Field(
        "auto",
        description="whole: the model is loaded; blocks: one block at a time, for a model larger than memory; auto: "
        "whole if it fits. The numbers are the same",
    )
    states: Literal["memory", "disk"] = Field(
        "memory", description="where the hidden states wait when blocks are loaded one at a time"
    )
    search: SearchSpec | None = Field(None, description="criteria that need more passes; none if not given")
