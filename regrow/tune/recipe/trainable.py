"""Which weights a fine-tuning run trains, discriminated by `kind`."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

_BLOCKS = "decoder blocks that train, 0-based; none: all"


class _Kind(BaseModel):
    """What every kind says about itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Peak learning rate where the recipe names none: adapters take large steps, whole weights small ones.
    rate: ClassVar[float]
    # Whether the result can be written into the parent's weights.
    mergeable: ClassVar[bool] = True


class Lora(_Kind):
    """A low-rank adapter, `W + s B A`, on the chosen linear layers.

    lora: s = alpha / r (arXiv 2106.09685). rslora: s = alpha / sqrt(r) (arXiv 2312.03732). dora: direction and
    length of each row of W are trained apart (arXiv 2402.09353). qlora: lora on a parent held in 4 bits (NF4, double
    quantization, arXiv 2305.14314); needs a CUDA GPU and bitsandbytes.
    """

    rate = 1e-3

    kind: Literal["lora", "rslora", "dora", "qlora"] = Field(default="lora", description="the variant")
    r: int = Field(default=16, ge=1, description="rank of the update of each weight matrix")
    alpha: float = Field(default=32, gt=0, description="scale of the update; see the variant for s")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of adapter inputs dropped in training")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        default="all-linear",
        description="names of the linear layers that get an adapter; all-linear: each but the output head",
    )
    blocks: tuple[int, ...] | None = Field(default=None, description=_BLOCKS)

    @field_validator("target_modules")
    @classmethod
    def _targets(cls, value: Any) -> Any:
        if not value:
            raise ValueError("is empty; name linear layers (q_proj, down_proj) or all-linear")
        return value


class Full(_Kind):
    """Every weight."""

    rate = 2e-5

    kind: Literal["full"] = "full"
    blocks: tuple[int, ...] | None = Field(
        default=None, description=_BLOCKS + ", and embeddings, head and final norm"
    )


class HeadAndLastK(_Kind):
    """The output head and the last blocks (arXiv 2411.15558): a strong baseline for pruned models.

    Where the head is tied to the embeddings, the one shared matrix trains, and stays shared.
    """

    rate = 1e-4

    kind: Literal["head_and_last_k"] = "head_and_last_k"
    k: int = Field(default=3, ge=1, description="number of last decoder blocks that train")


class BitFit(_Kind):
    """Bias terms alone (arXiv 2106.10199); in a model without biases the gains of its norms (logged)."""

    rate = 1e-3

    kind: Literal["bitfit"] = "bitfit"


class Prefix(_Kind):
    """Trained key and value vectors before every block's own (arXiv 2101.00190).

    They cannot be written into the weights: the run leaves an adapter, and no checkpoint.
    """

    rate = 1e-2
    mergeable = False

    kind: Literal["prefix"] = "prefix"
    tokens: int = Field(default=16, ge=1, description="positions that the prefix takes")


KINDS: dict[str, type[_Kind]] = {
    **dict.fromkeys(("lora", "rslora", "dora", "qlora"), Lora),
    "full": Full,
    "head_and_last_k": HeadAndLastK,
    "bitfit": BitFit,
    "prefix": Prefix,
}


def _kind(value: Any) -> str:
    kind = value.get("kind", "lora") if isinstance(value, dict) else getattr(value, "kind", "")
    return KINDS[kind].__name__ if kind in KINDS else str(kind)


Trainable = Annotated[
    Annotated[Lora, Tag("Lora")]
    | Annotated[Full, Tag("Full")]
    | Annotated[HeadAndLastK, Tag("HeadAndLastK")]
    | Annotated[BitFit, Tag("BitFit")]
    | Annotated[Prefix, Tag("Prefix")],
    Discriminator(
        _kind,
        custom_error_type="unknown_kind",
        custom_error_message=f"unknown kind; choose among {', '.join(KINDS)}",
    ),
]
