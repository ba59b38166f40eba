from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from regrow.evaluate import cost
from tests.tiny import tiny_checkpoint


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 16}),
        ("mistral", {"num_hidden_layers": 3, "head_dim": 8}),
    ],
)
@pytest.mark.parametrize("length", [1, 48])
def test_flops_equal_what_torch_counts(tmp_path: Path, family, settings, length):
    checkpoint = tiny_checkpoint(tmp_path / family, family=family, **settings)
    model = checkpoint.load()
    model.set_attn_implementation("eager")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.ones(1, length, dtype=torch.long), use_cache=False)
    found = cost(checkpoint, context=length)
    assert found.flops_per_token * length == counter.get_total_flops()
    assert found.parameters == checkpoint.parameters == sum(p.numel() for p in model.parameters())


def test_a_tied_head_costs_as_much_as_its_own(tmp_path: Path):
    tied = cost(tiny_checkpoint(tmp_path / "tied"))
    untied = cost(tiny_checkpoint(tmp_path / "untied", tie_word_embeddings=False))
    assert tied.flops_per_token == untied.flops_per_token
    assert tied.parameters < untied.parameters


def test_a_sliding_window_bounds_attention(tmp_path: Path):
    kinds = ["sliding_attention", "full_attention"]
    checkpoint = tiny_checkpoint(
        tmp_path / "gemma",
        family="gemma3_text",
        num_hidden_layers=2,
        layer_types=kinds,
        sliding_window=8,
        head_dim=8,
    )
    short, long = cost(checkpoint, 8), cost(checkpoint, 108)
    assert long.flops_per_token - short.flops_per_token == 4 * 4 * 8 * 100


def test_fewer_blocks_cost_less_in_proportion(tmp_path: Path):
    six = cost(tiny_checkpoint(tmp_path / "six"))
    four = cost(tiny_checkpoint(tmp_path / "four", num_hidden_layers=4))
    two = cost(tiny_checkpoint(tmp_path / "two", num_hidden_layers=2))
    assert six.flops_per_token - four.flops_per_token == four.flops_per_token - two.flops_per_token > 0
