"""Where the servers and libraries of the other engines are, and how hard they are driven."""

from pydantic import BaseModel, ConfigDict, Field, field_validator


class EndpointSpec(BaseModel):
    """An OpenAI-compatible server (vLLM, SGLang, llama.cpp, ...) that serves the unpruned model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = Field(description="base URL up to and with /v1, such as http://127.0.0.1:8000/v1")
    model: str = Field(min_length=1, description="name under which the server lists the unpruned model")
    in_flight: int = Field(64, ge=1, le=4096, description="requests that wait for an answer at one time")
    timeout: float = Field(600.0, gt=0, description="longest wait for one answer, in seconds")
    retries: int = Field(
        6, ge=0, description="tries after the first when the server is busy or gone, with growing pauses"
    )
    api_key_env: str | None = Field(
        None, description="environment variable that holds the API key; none is sent if not given"
    )

    @field_validator("url")
    @classmethod
    def _is_a_base_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError(f"{value!r} is no URL; write it as http://host:port/v1")
        return value.rstrip("/")


class VllmSpec(BaseModel):
    """vLLM in this process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_model_len: int | None = Field(
        None, ge=16, description="longest prompt and answer together, in tokens; not given: the model's"
    )
    max_num_seqs: int = Field(256, ge=1, le=4096, description="most sequences that vLLM works on at one time")
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1, description="share of the GPU's memory for vLLM")
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share the model")
    dtype: str = Field("auto", description="torch type of the computation; auto: the stored one")
    enforce_eager: bool = Field(
        False, description="without CUDA graphs or compilation: starts sooner, generates slower"
    )
