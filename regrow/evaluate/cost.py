"""What a model costs: parameters and floating-point operations per token.

FLOPs of one forward pass, per token, with a multiply and an add counted as two:

    2 * M  +  sum over blocks of 4 * heads * head_dim * min(context, window of the block)

M are the weights that take part in matrix products: every matrix of the blocks and the output head (a
tied head is stored once but multiplied all the same); looking up an embedding costs nothing. The second
term is attention (scores, then the weighted sum of values) for a token that attends to `context`
positions. Norms, rotary embedding, activations and softmax are left out, as is custom (Kaplan et al.,
arXiv 2001.08361, section 2.1; there the backward pass is counted apart, too).
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError

# Tables that are looked up, by the last parts of their names in the families that transformers has.
_LOOKUPS = ("embed_tokens.weight", "embed_positions.weight", "wte.weight", "wpe.weight", "embed_in.weight")
_HEADS = ("lm_head.weight", "embed_out.weight")


class Cost(BaseModel):
    """Size and price of a forward pass."""

    model_config = ConfigDict(frozen=True)

    parameters: int = Field(description="stored weights; tied embeddings count once")
    matmul_parameters: int = Field(
        description="weights that every token is multiplied with, output head included"
    )
    flops_per_token: int = Field(description="floating-point operations per token, forward pass")
    context: int = Field(description="positions that a token attends to in flops_per_token")


def cost(checkpoint: Checkpoint, context: int = 1024) -> Cost:
    """Count from the headers of the weights and the configuration; nothing is loaded.

    Mixtures of experts are counted with every expert, which is too much for them.

    Raises:
        InputError: the configuration does not give blocks and heads.
    """
    matrices = 0
    table = 0
    has_head = False
    for name, info in checkpoint.tensors().items():
        if len(info.shape) < 2:
            continue
        if name.endswith(_LOOKUPS):
            # The largest table is the vocabulary; positions come in a smaller one.
            table = max(table, info.count)
            continue
        has_head |= name.endswith(_HEADS)
        matrices += info.count
    if not has_head:
        matrices += table
    flops = 2 * matrices + _attention(checkpoint, context)
    return Cost(
        parameters=checkpoint.parameters, matmul_parameters=matrices, flops_per_token=flops, context=context
    )


def _attention(checkpoint: Checkpoint, context: int) -> int:
    config: dict[str, Any] = checkpoint.config
    config = config.get("text_config", config)
    heads = config.get("num_attention_heads")
    if not isinstance(heads, int):
        raise InputError(f"{checkpoint.folder / 'config.json'}: no num_attention_heads; unknown architecture")
    width = config.get("head_dim") or config["hidden_size"] // heads
    kinds = config.get("layer_types") or ["full_attention"] * checkpoint.blocks
    window = config.get("sliding_window") or context
    seen = sum(min(context, window) if kind == "sliding_attention" else context for kind in kinds)
    return int(4 * heads * width * seen)
