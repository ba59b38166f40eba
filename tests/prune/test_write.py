import json

import pytest
import torch

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.prune import PrunePlan, PruneSpec, apply, make_plan, pruned_config
from tests.tiny import tiny_checkpoint


def plan_for(checkpoint, start=2, stop=4):
    return make_plan(checkpoint, PruneSpec(drop=f"{start}:{stop}"))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_kept_tensors_are_copied_bit_for_bit_into_shards(tmp_path, tied, dtype):
    base = tiny_checkpoint(tmp_path / "base", tie_word_embeddings=tied, dtype=dtype)
    pruned = apply(base, plan_for(base), tmp_path / "pruned", max_shard_bytes=40_000)
    assert (pruned.folder / "model.safetensors.index.json").exists()
    before, after = base.load(dtype=str(dtype).split(".")[1]), pruned.load(dtype=str(dtype).split(".")[1])
    old, new = before.state_dict(), after.state_dict()
    for name, tensor in new.items():
        source = name.replace("layers.2.", "layers.4.").replace("layers.3.", "layers.5.")
        assert torch.equal(tensor, old[source]), name
    assert pruned.stored_dtype() == dtype
    assert pruned.blocks == 4


def test_the_digest_that_was_taken_while_writing_is_the_folders(tiny, tmp_path):
    pruned = apply(tiny, plan_for(tiny), tmp_path / "pruned", max_shard_bytes=40_000)
    assert Checkpoint.open(pruned.folder).digest == pruned.digest


def test_a_gemma3_pattern_keeps_the_blocks_own_attention_types(tmp_path):
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    base = tiny_checkpoint(tmp_path / "base", family="gemma3_text", head_dim=8, layer_types=kinds)
    pruned = apply(base, plan_for(base, 0, 2), tmp_path / "pruned")
    assert pruned.config["layer_types"] == kinds[2:]


def test_tokenizer_and_chat_template_come_along(tiny, tmp_path):
    pruned = apply(tiny, plan_for(tiny), tmp_path / "pruned")
    assert pruned.chat_tokenizer().chat_template == tiny.chat_tokenizer().chat_template
    assert (pruned.folder / "generation_config.json").exists()
    card = (pruned.folder / "README.md").read_text()
    assert tiny.digest in card
    assert "2:4" in card
    assert "model.layers.2 to model.layers.3" in card
    assert PrunePlan.read(pruned.folder / "plan.json") == plan_for(tiny)


def test_the_same_plan_gives_the_same_digest(tiny, tmp_path):
    assert (
        apply(tiny, plan_for(tiny), tmp_path / "a").digest
        == apply(tiny, plan_for(tiny), tmp_path / "b").digest
    )


def test_a_plan_for_another_checkpoint_is_refused(tiny, tmp_path):
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="made for the checkpoint"):
        apply(other, plan_for(tiny), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "jamba"}, "not a supported architecture"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"num_kv_shared_layers": 2}, "share keys and values"),
        ({"num_hidden_layers": 9}, "num_hidden_layers is 9"),
    ],
)
def test_models_that_would_be_cut_wrongly_are_refused(tiny, change, message):
    with pytest.raises(InputError, match=message):
        pruned_config(tiny.config | change, plan_for(tiny), tiny.folder / "config.json")


PATTERN = ["sliding_attention"] * 5 + ["full_attention"]


@pytest.mark.parametrize(
    ("family", "old", "new"),
    [
        (
            "gemma3_text",
            {"layer_types": PATTERN},
            {"layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
        ),
        # Left to be derived in older files: what transformers derives for the old depth is cut, not derived anew.
        (
            "gemma3_text",
            {"layer_types": None},
            {"layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
        ),
        ("gemma3_text", {"sliding_window_pattern": 3, "layer_types": None}, {"sliding_window_pattern": None}),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 0, 1, 1]}, {"no_rope_layers": [1, 1, 1, 1]}),
        ("smollm3", {"no_rope_layers": None}, {"no_rope_layers": [1, 1, 1, 1]}),
        ("qwen2", {"max_window_layers": 3}, {"max_window_layers": 2}),
        ("llama", {"mlp_layer_types": list("abcdef")}, {"mlp_layer_types": list("abef")}),
        ("llama", {"eos_token_id": [1, 2, 3, 4, 5, 6]}, {"eos_token_id": [1, 2, 3, 4, 5, 6]}),
    ],
)
def test_every_field_about_blocks_follows_the_plan(tmp_path, family, old, new):
    from transformers import AutoConfig

    base = tiny_checkpoint(tmp_path / "base", family=family)
    file = base.folder / "config.json"
    changed = {key: value for key, value in (base.config | old).items() if value is not None}
    file.write_text(json.dumps(changed))
    resolved = AutoConfig.from_pretrained(base.folder).to_dict()
    config = pruned_config(changed, plan_for(base), file, resolved)
    assert {key: config.get(key) for key in new} == new
    assert config["num_hidden_layers"] == 4


def test_weights_that_disagree_with_the_config_are_refused(tiny, tmp_path):
    config = json.loads((tiny.folder / "config.json").read_text())
    (tiny.folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    changed = Checkpoint.open(tiny.folder)
    with pytest.raises(InputError, match="disagree"):
        apply(changed, plan_for(changed), tmp_path / "out")


def test_a_failed_write_leaves_nothing(tiny, tmp_path, monkeypatch):
    import errno

    from regrow.errors import RegrowError
    from regrow.tensors import ShardWriter

    plan = plan_for(tiny)

    def full(self, name, source):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ShardWriter, "copy", full)
    with pytest.raises(RegrowError, match="disk is full"):
        apply(tiny, plan, tmp_path / "pruned")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
