"""The architectures that regrow cuts, tiny, and surgery on them the obvious way."""

import torch

from regrow.anatomy import anatomy_of, decoder_blocks, widths_of
from regrow.checkpoint import Checkpoint
from regrow.prune import PrunePlan

FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 16},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 3, "sliding_window": 16},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 16},
    "gemma3_text": {"head_dim": 8, "sliding_window": 16},
    "phi3": {},
    "olmo2": {},
    "smollm3": {},
    "gpt_neox": {},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
}
# Only their depth can be cut; mixtures of experts with dense blocks at the front, in between, or nowhere.
DEPTH_ONLY = {
    **{
        name: {}
        for name in ("gemma", "phi", "olmo", "stablelm", "starcoder2", "cohere", "cohere2", "exaone4")
    },
    "glm4": {"head_dim": 8},
    "gpt_oss": {"num_local_experts": 4, "head_dim": 8},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {
        "num_experts": 4,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "decoder_sparse_step": 2,
        "mlp_only_layers": [3],
    },
    "qwen3_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "mlp_only_layers": [1],
    },
    "deepseek_v3": {
        "first_k_dense_replace": 2,
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "n_group": 2,
        "topk_group": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "num_key_value_heads": 4,
    },
}
# Enough randomness that every weight matters; the default initialization hardly moves the state.
SPREAD = {"initializer_range": 0.3, "rms_norm_eps": 1e-12}
IDS = torch.randint(5, 200, (2, 40), generator=torch.Generator().manual_seed(3))


def logits(model, ids=IDS, **kwargs):
    with torch.no_grad():
        return model(ids, use_cache=False, **kwargs).logits


def cut_live(base: Checkpoint, plan: PrunePlan, dtype: str = "float32"):
    """The unpruned model with blocks taken out of its list."""
    model = base.load(dtype=dtype)
    blocks = decoder_blocks(model, base.blocks)
    kept = [blocks[block] for block in plan.blocks]
    backbone = model.base_model
    backbone.layers = torch.nn.ModuleList(kept)
    for number, block in enumerate(kept):
        (block.self_attn if hasattr(block, "self_attn") else block.attention).layer_idx = number
    model.config.num_hidden_layers = len(kept)
    for name in ("layer_types", "no_rope_layers"):
        if getattr(model.config, name, None):
            setattr(model.config, name, [getattr(model.config, name)[block] for block in plan.blocks])
    return model


class MaskedLayerNorm(torch.nn.Module):
    """A layer norm over some channels of a full state; the others stay zero."""

    def __init__(self, norm: torch.nn.LayerNorm, kept: torch.Tensor) -> None:
        super().__init__()
        self.norm, self.kept = norm, kept

    def forward(self, state):
        kept = self.kept
        part = torch.nn.functional.layer_norm(
            state[..., kept], (len(kept),), self.norm.weight[kept], self.norm.bias[kept], self.norm.eps
        )
        return torch.zeros_like(state).index_copy(-1, kept, part)


def mask_live(base: Checkpoint, plan: PrunePlan):
    """The unpruned model at its full size, every removed unit of width set to zero wherever it is written."""
    model = cut_live(base, plan, "float64")
    anatomy = anatomy_of(base.config)
    widths = widths_of(base.config, "config.json")
    blocks = model.base_model.layers
    hd, per = widths.head_dim, widths.heads_per_group

    def rest(units, count):
        return torch.tensor(sorted(set(range(count)) - set(units)), dtype=torch.long)

    def zero(module, rows=None, columns=None):
        if rows is not None:
            module.weight.data[rows] = 0
            if getattr(module, "bias", None) is not None:
                module.bias.data[rows] = 0
        if columns is not None:
            module.weight.data[:, columns] = 0

    def spread(units, size):
        return torch.tensor([u * size + i for u in units.tolist() for i in range(size)], dtype=torch.long)

    for number, block in enumerate(blocks):
        if plan.neurons:
            gone = rest(plan.neurons.kept[number], widths.neurons)
            zero(block.get_submodule(anatomy.mlp_out), columns=gone)
        if plan.groups:
            gone = rest(plan.groups.kept[number], widths.groups)
            zero(block.get_submodule(anatomy.attention_out), columns=spread(gone, hd * per))
            if hasattr(block, "self_attn") and hasattr(block.self_attn, "q_norm"):
                zero(block.self_attn.q_proj, rows=spread(gone, hd * per))
                zero(block.self_attn.k_proj, rows=spread(gone, hd))
        if plan.channels:
            gone = rest(plan.channels.kept[0], widths.channels)
            zero(block.get_submodule(anatomy.attention_out), rows=gone)
            zero(block.get_submodule(anatomy.mlp_out), rows=gone)
    if plan.channels:
        model.get_input_embeddings().weight.data[:, rest(plan.channels.kept[0], widths.channels)] = 0
        kept = torch.tensor(plan.channels.kept[0])
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, torch.nn.LayerNorm):
                    setattr(parent, name, MaskedLayerNorm(child, kept))
    return model


def generates_alike(model, ids=IDS) -> bool:
    """Whether generation with and without a cache gives the same tokens."""
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    return torch.equal(
        model.generate(ids, use_cache=True, **settings), model.generate(ids, use_cache=False, **settings)
    )
