"""What an architecture is made of: its blocks, its units of width, and where their weights lie.

Three kinds of unit can be removed from every block alike: neurons of the MLP, KV groups (a key/value head with
the query heads that read it), and channels of the residual stream. `Anatomy.axes` says for every tensor which
of its axes counts which unit; importance hooks the same modules that pruning cuts. An architecture that is
not listed is refused: it would be cut wrongly sooner or later.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from regrow.errors import InputError

if TYPE_CHECKING:
    import torch

# What an axis of a tensor counts. `qkv` and `gate_up` are fused projections, one part after the other; `heads3` is
# GPT-NeoX's, where query, key and value of a head lie together; `None` is an axis that no unit lies on.
Axis = Literal["channels", "neurons", "heads", "groups", "qkv", "gate_up", "heads3"] | None
Axes = tuple[Axis, ...]

BLOCK = re.compile(r"^(?P<prefix>(?:.*\.)?(?:layers|h|blocks)\.)(?P<number>\d+)\.(?P<rest>.+)$")


@dataclass(frozen=True)
class Anatomy:
    """Where a family keeps its units.

    `block` and `outside` map the name of a tensor (within its block, without `.weight`; or of the whole model) to
    what the axes of its weight count; a bias has the first of them. The four modules are linear layers: what
    goes into the first of attention and of the MLP are the channels, what goes into the last are the heads
    and the neurons.
    """

    block: Mapping[str, Axes]
    outside: Mapping[str, Axes]
    attention_in: str = "self_attn.q_proj"
    attention_out: str = "self_attn.o_proj"
    mlp_in: str = "mlp.gate_proj"
    mlp_out: str = "mlp.down_proj"
    norm: Literal["rms", "rms_plus_one", "layer"] = "rms"
    # Norms that stand between a sublayer and the residual stream of a model that scales its embeddings by the
    # square root of the hidden size: they keep the proportion of the two by themselves.
    unscaled_norms: frozenset[str] = field(default_factory=frozenset)
    # Whether heads * head_dim must be the hidden size, because the family has no head_dim of its own.
    heads_fill_channels: bool = False

    def axes(self, name: str) -> Axes | None:
        """Return what the axes of a tensor count; None for a tensor that the family does not have."""
        inside = BLOCK.match(name)
        module, _, kind = (inside["rest"] if inside else name).rpartition(".")
        found = (self.block if inside else self.outside).get(module)
        return found if found is None or kind == "weight" else found[:1]

    def is_norm(self, name: str) -> bool:
        """Return whether a tensor is the weight of a norm."""
        return name.endswith("norm.weight")


@dataclass(frozen=True)
class Widths:
    """How many units a model has in every block."""

    channels: int
    neurons: int
    heads: int
    groups: int
    head_dim: int

    @property
    def heads_per_group(self) -> int:
        """Query heads that read one key/value head."""
        return self.heads // self.groups

    def length(self, axis: Axis) -> int | None:
        """Return how long an axis is; None where no unit lies on it."""
        if axis is None:
            return None
        heads, groups = self.heads * self.head_dim, self.groups * self.head_dim
        return {
            "channels": self.channels,
            "neurons": self.neurons,
            "heads": heads,
            "groups": groups,
            "qkv": heads + 2 * groups,
            "gate_up": 2 * self.neurons,
            "heads3": 3 * heads,
        }[axis]


_NORM: Axes = ("channels",)
_ATTENTION: dict[str, Axes] = {
    "self_attn.q_proj": ("heads", "channels"),
    "self_attn.k_proj": ("groups", "channels"),
    "self_attn.v_proj": ("groups", "channels"),
    "self_attn.o_proj": ("channels", "heads"),
}
_MLP: dict[str, Axes] = {
    "mlp.gate_proj": ("neurons", "channels"),
    "mlp.up_proj": ("neurons", "channels"),
    "mlp.down_proj": ("channels", "neurons"),
}
_NORMS: dict[str, Axes] = {"input_layernorm": _NORM, "post_attention_layernorm": _NORM}
_POST_NORMS: dict[str, Axes] = {"post_attention_layernorm": _NORM, "post_feedforward_layernorm": _NORM}
# Norms over one head each: no unit lies on them.
_HEAD_NORMS: dict[str, Axes] = {"self_attn.q_norm": (None,), "self_attn.k_norm": (None,)}
_OUTSIDE: dict[str, Axes] = {
    "model.embed_tokens": (None, "channels"),
    "model.norm": _NORM,
    "lm_head": (None, "channels"),
}

_LLAMA = Anatomy({**_ATTENTION, **_MLP, **_NORMS}, _OUTSIDE)
_GEMMA_NORMS: dict[str, Axes] = {**_NORMS, "pre_feedforward_layernorm": _NORM, **_POST_NORMS}
_GEMMA_POST = frozenset(_POST_NORMS)

# By model_type. Depth can be cut in all of them; width where there is an anatomy.
FAMILIES: dict[str, Anatomy | None] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "qwen3": Anatomy({**_ATTENTION, **_HEAD_NORMS, **_MLP, **_NORMS}, _OUTSIDE),
    "gemma2": Anatomy(
        {**_ATTENTION, **_MLP, **_GEMMA_NORMS}, _OUTSIDE, norm="rms_plus_one", unscaled_norms=_GEMMA_POST
    ),
    "gemma3_text": Anatomy(
        {**_ATTENTION, **_HEAD_NORMS, **_MLP, **_GEMMA_NORMS},
        _OUTSIDE,
        norm="rms_plus_one",
        unscaled_norms=_GEMMA_POST,
    ),
    # Its norms of queries and keys run over all heads together.
    "olmo2": Anatomy(
        {
            **_ATTENTION,
            "self_attn.q_norm": ("heads",),
            "self_attn.k_norm": ("groups",),
            **_MLP,
            **_POST_NORMS,
        },
        _OUTSIDE,
    ),
    "phi3": Anatomy(
        {
            "self_attn.qkv_proj": ("qkv", "channels"),
            "self_attn.o_proj": ("channels", "heads"),
            "mlp.gate_up_proj": ("gate_up", "channels"),
            "mlp.down_proj": ("channels", "neurons"),
            **_NORMS,
        },
        _OUTSIDE,
        attention_in="self_attn.qkv_proj",
        mlp_in="mlp.gate_up_proj",
    ),
    "gpt_neox": Anatomy(
        {
            "attention.query_key_value": ("heads3", "channels"),
            "attention.dense": ("channels", "heads"),
            "mlp.dense_h_to_4h": ("neurons", "channels"),
            "mlp.dense_4h_to_h": ("channels", "neurons"),
            **_NORMS,
        },
        {
            "gpt_neox.embed_in": (None, "channels"),
            "gpt_neox.final_layer_norm": _NORM,
            "embed_out": (None, "channels"),
        },
        attention_in="attention.query_key_value",
        attention_out="attention.dense",
        mlp_in="mlp.dense_h_to_4h",
        mlp_out="mlp.dense_4h_to_h",
        norm="layer",
        heads_fill_channels=True,
    ),
    **dict.fromkeys(
        ("gemma", "phi", "olmo", "stablelm", "starcoder2", "cohere", "cohere2", "glm4", "exaone4")
    ),
    # Mixtures of experts, some with dense blocks among them.
    **dict.fromkeys(("mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "gpt_oss")),
}
FAMILIES["olmo3"] = FAMILIES["olmo2"]


def check_family(config: Mapping[str, Any], file: Any) -> None:
    """Refuse a model that regrow would cut wrongly.

    Raises:
        InputError: an unsupported family, quantized weights, or blocks that share keys and values; the
            message names `file`.
    """
    if (family := config.get("model_type")) not in FAMILIES:
        raise InputError(
            f"{file}: model_type {family!r} is not a supported architecture; supported: {', '.join(sorted(FAMILIES))}"
        )
    if config.get("quantization_config"):
        raise InputError(
            f"{file}: the weights are quantized; prune the original bf16 or fp32 checkpoint instead"
        )
    if config.get("num_kv_shared_layers"):
        raise InputError(f"{file}: blocks share keys and values (num_kv_shared_layers); not supported")


def anatomy_of(config: Mapping[str, Any]) -> Anatomy | None:
    """Return where a model keeps its units of width; None where only its depth can be cut."""
    return FAMILIES.get(str(config.get("model_type")))


def widths_of(config: Mapping[str, Any], file: Any) -> Widths:
    """Return how many units of each kind a model has.

    Raises:
        InputError: the configuration does not say; the message names `file`.
    """
    anatomy = anatomy_of(config)
    alone = anatomy is not None and anatomy.heads_fill_channels  # every head has its own key and value
    try:
        channels, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return Widths(
            channels=channels,
            neurons=int(config["intermediate_size"]),
            heads=heads,
            groups=heads if alone else int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or channels // heads),
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{file}: no usable {error}; the widths of the model are not known") from None


def stack_of(names: Iterable[str], depth: int, where: Any) -> str:
    """Return what the blocks of a checkpoint are called, such as `model.layers` for `model.layers.0` and so on.

    Raises:
        InputError: the names do not hold exactly one stack of `depth` numbered blocks; the message names `where`.
    """
    numbers: dict[str, set[int]] = {}
    for name in names:
        if match := BLOCK.match(name):
            numbers.setdefault(match["prefix"], set()).add(int(match["number"]))
    stacks = [prefix for prefix, seen in numbers.items() if seen == set(range(depth))]
    if len(stacks) != 1:
        raise InputError(
            f"{where}: the weights do not hold exactly one stack of {depth} numbered blocks "
            f"(found {sorted(numbers) or 'none'}); config.json and the safetensors disagree"
        )
    return stacks[0].removesuffix(".")


def decoder_blocks(model: Any, depth: int) -> "torch.nn.ModuleList":
    """Return the list of decoder blocks of a transformers model.

    Raises:
        InputError: there is not exactly one module list as long as the configured depth.
    """
    import torch

    found = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
    if len(found) != 1:
        raise InputError(
            f"{type(model).__name__}: expected one list of {depth} decoder blocks, found {len(found)}; "
            "this architecture is not supported"
        )
    return found[0]
