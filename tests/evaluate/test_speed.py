import pytest

from regrow.errors import InputError, RegrowError
from regrow.evaluate import EvaluateSpec, cost
from regrow.evaluate.flops import counted_flops
from regrow.evaluate.speed import Speed, Timing, speed
from tests.tiny import tiny_checkpoint

SPEED = {"prompt_tokens": 24, "new_tokens": 5, "batch_sizes": [1, 3], "rounds": 3}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 16}),
        ("gemma3_text", {"head_dim": 8, "sliding_window": 64, "layer_types": ["sliding_attention"] * 6}),
    ],
)
def test_the_formula_is_what_torch_counts(tmp_path, family, settings):
    checkpoint = tiny_checkpoint(tmp_path / family, family=family, **settings)
    assert counted_flops(checkpoint, 40) == cost(checkpoint, 40).flops_per_token


def test_a_window_shorter_than_the_prompt_is_the_one_difference(tmp_path):
    """Plain attention multiplies what the mask then hides: 4 x heads x width x (40 - 8) a token and block."""
    checkpoint = tiny_checkpoint(
        tmp_path / "gemma",
        family="gemma3_text",
        head_dim=8,
        sliding_window=8,
        layer_types=["sliding_attention"] * 5 + ["full_attention"],
    )
    found, stated = counted_flops(checkpoint, 40), cost(checkpoint, 40).flops_per_token
    assert found - stated == 5 * 4 * 4 * 8 * (40 - 8)


@pytest.mark.evaluation
def test_models_are_measured_in_turns(tmp_path):
    """A model of six blocks, and one of two that is also narrower: it must be quicker, smaller and cheaper."""
    large = tiny_checkpoint(tmp_path / "large", hidden_size=512, intermediate_size=2048)
    little = tiny_checkpoint(tmp_path / "little", num_hidden_layers=2)
    found = speed({"base": large, "pruned": little}, EvaluateSpec(speed=SPEED, dtype="float32"))
    assert [one.name for one in found] == ["base", "pruned"]
    base, pruned = found
    for one, checkpoint in zip(found, (large, little), strict=True):
        assert one.digest == checkpoint.digest
        assert one.flops_per_token == one.flops_counted == cost(checkpoint, 24).flops_per_token
        assert one.dtype == "float32"
        assert [timing.batch_size for timing in one.timings] == [1, 3]
        assert all(len(timing.prefill) == len(timing.step) == 3 for timing in one.timings)
        assert all(seconds > 0 for timing in one.timings for seconds in timing.prefill + timing.step)
    assert pruned.checkpoint_bytes < base.checkpoint_bytes
    if base.device == "cpu":
        # At least the weights, four bytes each.
        assert base.memory_bytes > 4 * base.parameters > pruned.memory_bytes
    row = pruned.summary(base)["batches"]["3"]
    assert row["decode_speedup"]["value"] > 1
    assert row["prefill_speedup"]["low"] <= row["prefill_speedup"]["high"]
    assert "decode_speedup" not in base.summary()["batches"]["1"]


def test_the_summary_takes_ratios_within_rounds():
    """A machine that gets slower from round to round slows both alike."""
    common = {
        "digest": "d",
        "parameters": 1,
        "checkpoint_bytes": 1,
        "memory_bytes": None,
        "flops_per_token": 1,
        "flops_counted": None,
        "prompt_tokens": 10,
        "new_tokens": 3,
        "dtype": "float32",
        "device": "cpu",
        "threads": 1,
    }
    base = Speed(
        name="base", timings=(Timing(batch_size=2, prefill=(1.0, 2.0, 8.0), step=(2.0, 4.0, 16.0)),), **common
    )
    other = Speed(
        name="p", timings=(Timing(batch_size=2, prefill=(0.5, 1.0, 4.0), step=(1.0, 1.0, 8.0)),), **common
    )
    row = other.summary(base)["batches"]["2"]
    assert row["prefill_speedup"] == {"value": 2.0, "low": 2.0, "high": 2.0}
    assert row["decode_speedup"] == {"value": 2.0, "low": 2.0, "high": 4.0}
    assert row["decode_tokens_per_second"] == 2.0
    assert row["prefill_tokens_per_second"] == 20.0


def test_a_prompt_longer_than_the_context_is_refused(tmp_path):
    model = tiny_checkpoint(tmp_path / "m", max_position_embeddings=32)
    with pytest.raises(InputError, match="more than the 32 positions"):
        speed({"base": model}, EvaluateSpec(speed={"prompt_tokens": 30, "new_tokens": 8}))
    with pytest.raises(InputError, match=r"evaluation\.speed: is not given"):
        speed({"base": model}, EvaluateSpec(perplexity={"name": "t", "source": "t.jsonl"}))


def test_a_process_that_ends_says_why(tmp_path):
    model = tiny_checkpoint(tmp_path / "m")
    (model.folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(RegrowError, match="the process of base ended"):
        speed({"base": model}, EvaluateSpec(speed=SPEED))
