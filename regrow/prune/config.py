"""The configuration of a pruned model: every field that counts or lists units follows the plan."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regrow.anatomy import anatomy_of, check_family, widths_of
from regrow.errors import InputError
from regrow.prune.plan import PrunePlan

# Lists that may be as long as the model is deep without saying anything about blocks.
_NOT_PER_BLOCK = frozenset({
    "architectures", "bos_token_id", "eos_token_id", "pad_token_id", "suppress_tokens", "begin_suppress_tokens",
    "bad_words_ids", "keys_to_ignore_at_inference", "mlp_only_layers",
})  # fmt: skip
# Cadences from which a list is derived where there is none: (list, cadence, value at every n-th block, else).
_CADENCES = (
    ("layer_types", "sliding_window_pattern", "full_attention", "sliding_attention"),
    ("layer_types", "_sliding_window_pattern", "full_attention", "sliding_attention"),
    ("no_rope_layers", "no_rope_layer_interval", 0, 1),
)


def pruned_config(
    config: Mapping[str, Any], plan: PrunePlan, file: Path, resolved: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the configuration of the pruned model.

    Args:
        config: config.json of the unpruned model.
        plan: what stays.
        file: where `config` was read from, for messages.
        resolved: the configuration as transformers completes it. Per-block lists that config.json leaves to
            be derived (which blocks slide their window, which have no rotary embedding) are taken from there:
            derived anew for fewer blocks, they would be other ones.

    Raises:
        InputError: an unsupported model, or one of another shape than the plan's.
    """
    check_family(config, file)
    depth = config.get("num_hidden_layers")
    if depth != plan.depth:
        raise InputError(f"{file}: num_hidden_layers is {depth}, the plan is for {plan.depth} blocks")
    new = dict(config)
    if plan.removed:
        new.update(_lists(resolved or {}, plan) | _lists(config, plan))
        new["num_hidden_layers"] = len(plan.blocks)
        if isinstance(window := config.get("max_window_layers"), int):
            # Blocks below this number attend in full: the count of those that stay.
            new["max_window_layers"] = sum(block < window for block in plan.blocks)
        _drop_broken_cadences(new)
        _place_dense_blocks(new, config, plan)
    if plan.neurons or plan.groups or plan.channels:
        _set_widths(new, plan, file)
    return new


def _lists(config: Mapping[str, Any], plan: PrunePlan) -> dict[str, Any]:
    return {
        key: [value[block] for block in plan.blocks]
        for key, value in config.items()
        if isinstance(value, list) and len(value) == plan.depth and key not in _NOT_PER_BLOCK
    }


def _drop_broken_cadences(new: dict[str, Any]) -> None:
    """Remove a cadence that the kept blocks no longer follow; the list beside it says what they do."""
    for key, cadence, at, else_ in _CADENCES:
        if isinstance(every := new.get(cadence), int) and isinstance(kinds := new.get(key), list):
            regular = [at if (block + 1) % every == 0 else else_ for block in range(len(kinds))]
            if kinds != regular:
                del new[cadence]


def _place_dense_blocks(new: dict[str, Any], config: Mapping[str, Any], plan: PrunePlan) -> None:
    """In a mixture of experts, say anew which blocks are dense."""
    if isinstance(first := config.get("first_k_dense_replace"), int):
        new["first_k_dense_replace"] = sum(block < first for block in plan.blocks)
    if isinstance(step := config.get("decoder_sparse_step"), int):
        listed = config.get("mlp_only_layers") or []
        dense = [block in listed or (block + 1) % step != 0 for block in range(plan.depth)]
        new["decoder_sparse_step"] = 1
        new["mlp_only_layers"] = [place for place, block in enumerate(plan.blocks) if dense[block]]


def _set_widths(new: dict[str, Any], plan: PrunePlan, file: Path) -> None:
    widths = widths_of(new, file)
    for name in ("neurons", "groups", "channels"):
        units = getattr(plan, name)
        if units and units.of != getattr(widths, name):
            raise InputError(
                f"{file}: the model has {getattr(widths, name)} {name}, the plan is for {units.of}"
            )
    if plan.neurons:
        new["intermediate_size"] = plan.neurons.count
    if plan.groups:
        new["num_attention_heads"] = plan.groups.count * widths.heads_per_group
        if "num_key_value_heads" in new:  # absent where every head has its own
            new["num_key_value_heads"] = plan.groups.count
    if plan.channels:
        new["hidden_size"] = plan.channels.count
    anatomy = anatomy_of(new)
    if (plan.groups or plan.channels) and anatomy and not anatomy.heads_fill_channels:
        # Otherwise it would be derived from the new hidden size.
        new["head_dim"] = widths.head_dim
