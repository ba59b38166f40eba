"""How the unpruned model is asked to rewrite a set."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from regrow.selfdata.engines import EndpointSpec, VllmSpec
from regrow.selfdata.rule import BANNED_PHRASES

_RETRY_TEMPERATURE = 0.7


class SelfDataSpec(BaseModel):
    """How the unpruned model is asked to rewrite a set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str = Field(
        "auto", description="auto (the family's own), a packaged template's name, or a file"
    )
    use_reference: bool = Field(True, description="show the reference answer to the model that rewrites")
    max_new_tokens: int = Field(256, ge=1, description="longest rewrite, in tokens")
    temperature: float = Field(
        0.0,
        ge=0.0,
        description="softmax temperature of sampling; 0 is greedy. With several attempts, that of the further "
        f"ones: {_RETRY_TEMPERATURE} if not given",
    )
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="nucleus: probability mass that is sampled from")
    attempts: int = Field(
        1, ge=1, le=64, description="tries per record; with several the first one is greedy"
    )
    batch_size: int | None = Field(
        None, ge=1, description="most sequences in a batch of transformers; not given: what fits into memory"
    )
    shard_size: int = Field(
        256, ge=1, description="records per shard; a killed run loses the shards that it was working on"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="seed of sampling; each record and try has its own")
    engine: Literal["transformers", "vllm", "endpoint"] = Field(
        "transformers",
        description="what generates: transformers or vLLM in this process, or an OpenAI-compatible server",
    )
    endpoint: EndpointSpec | None = Field(None, description="the server of the engine `endpoint`")
    vllm: VllmSpec = Field(default_factory=lambda: VllmSpec(), description="settings of the engine `vllm`")
    banned_phrases: tuple[str, ...] = Field(
        BANNED_PHRASES, description="a rewrite with one of these (whole words, any case) is not accepted"
    )

    @model_validator(mode="before")
    @classmethod
    def _further_attempts_are_sampled(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("attempts", 1) != 1:
            return {"temperature": _RETRY_TEMPERATURE} | value
        return value

    @model_validator(mode="after")
    def _the_engine_has_its_settings(self) -> "SelfDataSpec":
        if (self.engine == "endpoint") != (self.endpoint is not None):
            raise ValueError(
                "endpoint: the engine `endpoint` needs the server's url and model, the others none"
            )
        return self

    @model_validator(mode="after")
    def _attempts_must_differ(self) -> "SelfDataSpec":
        if self.attempts > 1 and not self.temperature:
            raise ValueError("attempts above 1 need temperature > 0; greedy tries are all the same")
        return self
