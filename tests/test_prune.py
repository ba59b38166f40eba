import json

import pytest
import torch

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.prune import PrunePlan, apply, pruned_config
from tests.tiny import tiny_checkpoint

FAMILIES = {
    "llama": {},
    "mistral": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 3},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8, "sliding_window": 16},
    "phi3": {},
    "smollm3": {},
}


def plan_for(checkpoint, start=2, stop=4):
    return PrunePlan(
        source_digest=checkpoint.digest, depth=checkpoint.blocks, start=start, stop=stop, criterion="given"
    )


def cut_live(checkpoint, plan):
    """The same surgery on the live model, written the obvious way."""
    model = checkpoint.load(dtype="float32")
    model.model.layers = torch.nn.ModuleList([model.model.layers[i] for i in plan.kept])
    for number, block in enumerate(model.model.layers):
        block.self_attn.layer_idx = number
    model.config.num_hidden_layers = len(plan.kept)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[i] for i in plan.kept]
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_files_equal_surgery_on_the_live_model(tmp_path, family):
    base = tiny_checkpoint(tmp_path / "base", family=family, **FAMILIES[family])
    plan = plan_for(base, 1, 4)
    pruned = apply(base, plan, tmp_path / "pruned")
    ids = torch.randint(5, 200, (2, 40))
    with torch.no_grad():
        expected = cut_live(base, plan)(ids, use_cache=False).logits
        model = pruned.load(dtype="float32")
        assert torch.equal(model(ids, use_cache=False).logits, expected)
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(
        model.generate(ids, use_cache=True, **settings), model.generate(ids, use_cache=False, **settings)
    )


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


def test_a_gemma3_pattern_keeps_the_blocks_own_attention_types(tmp_path):
    kinds = ["sliding_attention", "sliding_attention", "full_attention"] * 2
    base = tiny_checkpoint(tmp_path / "base", family="gemma3_text", head_dim=8, layer_types=kinds)
    pruned = apply(base, plan_for(base, 0, 2), tmp_path / "pruned")
    assert pruned.config["layer_types"] == kinds[2:]


def test_tokenizer_and_chat_template_come_along(tiny, tmp_path):
    pruned = apply(tiny, plan_for(tiny), tmp_path / "pruned")
    assert pruned.chat_tokenizer().chat_template == tiny.chat_tokenizer().chat_template
    assert (pruned.folder / "generation_config.json").exists()
    assert tiny.digest in (pruned.folder / "README.md").read_text()


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


@pytest.mark.parametrize(("start", "stop"), [(0, 6), (4, 7), (3, 3), (5, 2)])
def test_a_range_outside_the_model_is_refused(tiny, start, stop):
    with pytest.raises(InputError, match="cannot be removed"):
        plan_for(tiny, start, stop)


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
        pruned_config(tiny.config | change, plan_for(tiny), tiny.folder)


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

    def full(self, name, source):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ShardWriter, "copy", full)
    with pytest.raises(RegrowError, match="disk is full"):
        apply(tiny, plan_for(tiny), tmp_path / "pruned")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
