import json
import logging
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from regrow import tensors
from regrow.checkpoint import Checkpoint
from regrow.errors import InputError, RegrowError
from regrow.tune.fuse import fuse, overlay, updates, verify
from tests.tiny import tiny_checkpoint

TOKENS = [[3, 9, 40, 41, 42, 4], [3, 50, 60, 70]]
PROMPTS = [2, 1]
FAMILIES = {
    "llama": {"tie_word_embeddings": False},
    "qwen2": {},  # biases
    "gemma3_text": {"head_dim": 8},  # tied
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2},  # Conv1D: weights are (in, out)
}
KINDS = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}


def adapter_of(parent: Checkpoint, folder: Path, *, spread: float = 0.1, **changes) -> Path:
    """An adapter with random factors, as PEFT saves it."""
    settings = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | changes
    model = get_peft_model(parent.load(dtype="float32"), LoraConfig(**settings))
    torch.manual_seed(5)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = spread * torch.randn_like(weight)
        elif "magnitude" in name:
            weight.data *= 1 + spread * torch.randn_like(weight)
    model.save_pretrained(folder)
    return folder


def edit_config(adapter: Path, **changes) -> Path:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return adapter


def trained_of(parent: Checkpoint, file: Path, chosen=lambda name: True, spread: float = 0.1) -> Path:
    """Some of the live model's parameters, moved, as a worker would save them."""
    torch.manual_seed(6)
    save_file(
        {
            name: weight.data + spread * torch.randn_like(weight)
            for name, weight in parent.load(dtype="float32").named_parameters()
            if chosen(name)
        },
        file,
    )
    return file


def edit_weights(checkpoint: Checkpoint, change) -> Checkpoint:
    file = checkpoint.folder / "model.safetensors"
    weights = {name: weight.clone() for name, weight in load_file(file).items()}
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})
    return Checkpoint.open(checkpoint.folder)


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model(torch.tensor([ids])).logits.flatten() for ids in TOKENS])


def prove(parent: Checkpoint, merged: Path, adapter: Path | None = None, trained: Path | None = None):
    return verify(parent, merged, adapter=adapter, trained=trained, tokens=TOKENS, prompts=PROMPTS)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensors.load(info, name) for name, info in tensors.index(folder).items()}


# Merging an adapter


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_peft(tmp_path: Path, family, kind):
    parent = tiny_checkpoint(tmp_path / "parent", family=family, initializer_range=0.1, **FAMILIES[family])
    adapter = adapter_of(parent, tmp_path / "adapter", **KINDS[kind])
    fuse(parent, adapter, tmp_path / "merged", max_shard_bytes=40_000)
    assert len(list((tmp_path / "merged").glob("*.safetensors"))) > 1
    got = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    want = logits(PeftModel.from_pretrained(parent.load(), adapter).eval())
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert (want - logits(parent.load())).norm() > 0.02 * want.norm()
    peft_merge = PeftModel.from_pretrained(parent.load(), adapter).merge_and_unload().state_dict()
    for name, weight in stored(tmp_path / "merged").items():
        torch.testing.assert_close(weight, peft_merge[name], rtol=1e-5, atol=1e-6)
    facts = prove(parent, tmp_path / "merged", adapter)
    assert facts["merge_difference"] < 1e-5
    assert facts["rounding"] == 0  # float32 in, float32 out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounds_once_and_touches_nothing_else(tmp_path: Path, kind, dtype):
    parent = tiny_checkpoint(tmp_path / "parent", dtype=dtype)
    adapter = adapter_of(parent, tmp_path / "adapter", target_modules=["q_proj"], **KINDS[kind])
    fuse(parent, adapter, tmp_path / "merged")
    factors = load_file(adapter / "adapter_model.safetensors")
    old = stored(parent.folder)
    assert list(old) == list(stored(tmp_path / "merged"))
    for name, got in stored(tmp_path / "merged").items():
        assert got.dtype == dtype
        if "q_proj" in name:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            a, b = (factors[f"{stem}.lora_{x}.weight"].double() for x in "AB")
            want = old[name].double() + (6 if kind == "rslora" else 3) * b @ a
            if kind == "dora":
                want *= (factors[f"{stem}.lora_magnitude_vector"] / want.norm(dim=1)).unsqueeze(1)
            assert (got == want.to(dtype)).float().mean() > 0.995
            assert not torch.equal(got, old[name])
        else:
            assert torch.equal(got, old[name]), name
    for file in parent.folder.iterdir():
        if file.name not in ("model.safetensors", "README.md"):
            assert (tmp_path / "merged" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("tied", [True, False])
def test_tied_stays_tied_and_untied_separate(tmp_path: Path, tied):
    parent = tiny_checkpoint(tmp_path / "parent", tie_word_embeddings=tied)
    adapter = adapter_of(parent, tmp_path / "adapter")
    fuse(parent, adapter, tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()) is tied
    assert ("lm_head.weight" in stored(tmp_path / "merged")) is not tied


def test_an_untied_head_may_have_an_adapter_but_not_a_tied_one(tmp_path: Path):
    parent = tiny_checkpoint(tmp_path / "untied", tie_word_embeddings=False)
    adapter = adapter_of(parent, tmp_path / "a", target_modules=["lm_head", "v_proj"])
    fuse(parent, adapter, tmp_path / "merged")
    assert prove(parent, tmp_path / "merged", adapter)["merge_difference"] < 1e-5
    file = adapter / "adapter_model.safetensors"
    factors = load_file(file)
    factors["base_model.model.lm_head.base_layer.weight"][0] += 1  # no longer the parent's
    save_file(factors, file)
    with pytest.raises(RegrowError, match=r"unexpected tensor .*lm_head\.base_layer"):
        fuse(parent, adapter, tmp_path / "m")
    tied = tiny_checkpoint(tmp_path / "tied")
    adapter = adapter_of(tied, tmp_path / "b", target_modules=["lm_head", "v_proj"])
    with pytest.raises(RegrowError, match="lm_head, whose weight is tied"):
        fuse(tied, adapter, tmp_path / "m")


def test_a_file_saved_without_its_head_keeps_its_names(tmp_path: Path):
    parent = tiny_checkpoint(tmp_path / "whole", family="gpt2", **FAMILIES["gpt2"])
    parent.load().transformer.save_pretrained(tmp_path / "bare")
    bare = Checkpoint.open(tmp_path / "bare")
    assert "wte.weight" in bare.tensors()
    adapter = adapter_of(bare, tmp_path / "adapter", use_dora=True)
    fuse(bare, adapter, tmp_path / "merged")
    assert set(stored(tmp_path / "merged")) == set(bare.tensors())
    assert prove(bare, tmp_path / "merged", adapter)["merge_difference"] < 1e-5


def test_a_row_of_zeros_stays_zero_with_dora(tmp_path: Path, tiny):
    name = "model.layers.1.self_attn.v_proj.weight"
    parent = edit_weights(tiny, lambda weights: weights[name][3].zero_())
    adapter = adapter_of(parent, tmp_path / "adapter", use_dora=True)
    file = adapter / "adapter_model.safetensors"
    factors = load_file(file)
    factors["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"][3] = 0
    save_file(factors, file)
    fuse(parent, adapter, tmp_path / "merged")
    merged = stored(tmp_path / "merged")[name]
    assert merged.isfinite().all() and not merged[3].any() and merged[2].any()
    # PEFT divides by the row's length of zero.
    with pytest.raises(RegrowError, match="no finite numbers"):
        prove(parent, tmp_path / "merged", adapter)


# What is refused


def test_an_adapter_of_another_parent_is_refused(tmp_path: Path, tiny):
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    adapter = edit_config(adapter_of(tiny, tmp_path / "a"), base_model_name_or_path=f"sha256:{tiny.digest}")
    fuse(tiny, adapter, tmp_path / "merged")
    message = f"trained on the model sha256:{tiny.digest}, not on sha256:{other.digest}; name that parent"
    with pytest.raises(InputError, match=message):
        fuse(other, adapter, tmp_path / "m")
    with pytest.raises(InputError, match=message):
        prove(other, tmp_path / "merged", adapter)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("peft_type", "PREFIX_TUNING"),
        ("rank_pattern", {"q_proj": 2}),
        ("alpha_pattern", {"q_proj": 2}),
        ("modules_to_save", ["lm_head"]),
        ("trainable_token_indices", [3]),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("layer_replication", [[0, 4], [2, 5]]),
        ("lora_bias", True),
        ("bias", "all"),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "mica"),
        ("use_something_new", True),
    ],
)
def test_adapters_of_other_kinds_are_refused(tmp_path: Path, tiny, setting, value):
    adapter = edit_config(adapter_of(tiny, tmp_path / "adapter"), **{setting: value})
    with pytest.raises(RegrowError, match=f"{setting}.*{value if isinstance(value, str) else ''}"):
        fuse(tiny, adapter, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_adapters_that_do_not_fit_are_refused(tmp_path: Path, tiny):
    adapter = adapter_of(tiny, tmp_path / "adapter")
    shallow = tiny_checkpoint(tmp_path / "shallow", num_hidden_layers=3)
    with pytest.raises(RegrowError, match=r"has no tensor model\.layers\.3"):
        fuse(shallow, adapter, tmp_path / "m")
    narrow = tiny_checkpoint(tmp_path / "narrow", intermediate_size=48)
    with pytest.raises(RegrowError, match=r"mlp\.down_proj make \(32, 64\) of rank 4, .* is \(32, 48\)"):
        fuse(narrow, adapter, tmp_path / "m")
    with pytest.raises(RegrowError, match="lora_magnitude_vector"):
        fuse(tiny, edit_config(adapter, use_dora=True), tmp_path / "m")
    embedding = adapter_of(tiny, tmp_path / "embedding", target_modules=["embed_tokens"])
    with pytest.raises(RegrowError, match=r"unexpected tensor .*embed_tokens"):
        fuse(tiny, embedding, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_nothing_is_left_of_a_merge_that_failed(tmp_path: Path, tiny):
    adapter = adapter_of(tiny, tmp_path / "adapter")
    fuse(tiny, adapter, tmp_path / "out" / "merged")
    before = stored(tmp_path / "out" / "merged")
    file = adapter / "adapter_model.safetensors"
    factors = load_file(file)
    factors["base_model.model.model.layers.5.self_attn.v_proj.lora_B.weight"][0, 0] = float("nan")
    save_file(factors, file)
    with pytest.raises(RegrowError, match=r"layers\.5\.self_attn\.v_proj\.weight: .* not all finite"):
        fuse(tiny, adapter, tmp_path / "out" / "merged")
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["merged"]
    after = stored(tmp_path / "out" / "merged")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_float16_cannot_hold_is_refused(tmp_path: Path):
    parent = tiny_checkpoint(tmp_path / "parent", dtype=torch.float16)
    name = "model.norm.weight"
    save_file({name: torch.full((32,), 1e5)}, tmp_path / "trained.safetensors")
    with pytest.raises(RegrowError, match=f"{name}: .* not all finite numbers in float16"):
        overlay(parent, tmp_path / "trained.safetensors", tmp_path / "m")
    assert not (tmp_path / "m").exists()


# Trained weights

SETS = {
    "full": lambda name: True,
    "head_and_last_k": lambda name: any(
        part in name for part in ("lm_head", "layers.5.", "layers.4.", "h.1.")
    ),
    "bitfit": lambda name: name.endswith(".bias") or "norm" in name or "ln_" in name,
}


@pytest.mark.parametrize("which", SETS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trained_weights_replace_the_parents(tmp_path: Path, family, which, dtype):
    parent = tiny_checkpoint(tmp_path / "parent", family=family, dtype=dtype, **FAMILIES[family])
    trained = trained_of(parent, tmp_path / "trained.safetensors", SETS[which])
    overlay(parent, trained, tmp_path / "merged", note="Parent: x", max_shard_bytes=40_000)
    new, old = load_file(trained), stored(parent.folder)
    assert new and (which == "full") is (set(new) == set(old))
    for name, got in stored(tmp_path / "merged").items():
        assert torch.equal(got, new[name].to(dtype) if name in new else old[name]), name
    live = parent.load(dtype="float32")
    live.load_state_dict({name: weight.to(dtype).float() for name, weight in new.items()}, strict=False)
    live.tie_weights()
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert torch.equal(logits(live), logits(again))
    assert "Parent: x" in (tmp_path / "merged" / "README.md").read_text()
    facts = prove(parent, tmp_path / "merged", trained=trained)
    assert facts["merge_difference"] == 0
    assert (facts["rounding"] == 0) is (dtype == torch.float32)


@pytest.mark.parametrize("trained_as", ["lm_head.weight", "model.embed_tokens.weight"])
def test_of_tied_weights_either_name_will_do(tmp_path: Path, tiny, trained_as):
    new = torch.randn(tiny.tensors()["model.embed_tokens.weight"].shape)
    trained = tmp_path / "trained.safetensors"
    save_file({trained_as: new}, trained)
    overlay(tiny, trained, tmp_path / "merged")
    assert "lm_head.weight" not in stored(tmp_path / "merged")
    assert torch.equal(stored(tmp_path / "merged")["model.embed_tokens.weight"], new)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert torch.equal(model.lm_head.weight, new)
    prove(tiny, tmp_path / "merged", trained=trained)


def test_a_tie_that_the_file_spells_out_stays_one(tmp_path: Path, tiny):
    embedding = "model.embed_tokens.weight"
    both = edit_weights(tiny, lambda weights: weights.update({"lm_head.weight": weights[embedding].clone()}))
    trained = trained_of(both, tmp_path / "trained.safetensors", lambda name: name == embedding)
    overlay(both, trained, tmp_path / "merged")
    merged = stored(tmp_path / "merged")
    assert torch.equal(merged["lm_head.weight"], merged[embedding])
    assert torch.equal(merged[embedding], load_file(trained)[embedding])
    prove(both, tmp_path / "merged", trained=trained)


def test_a_tie_that_the_file_belies_is_none(tmp_path: Path, tiny):
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    parent = edit_weights(tiny, lambda weights: weights.update({head: weights[embedding] + 1}))
    assert parent.config["tie_word_embeddings"]
    trained = trained_of(parent, tmp_path / "trained.safetensors", lambda name: name == head)
    overlay(parent, trained, tmp_path / "merged")
    merged = stored(tmp_path / "merged")
    assert torch.equal(merged[head], load_file(trained)[head])
    assert torch.equal(merged[embedding], stored(parent.folder)[embedding])
    prove(parent, tmp_path / "merged", trained=trained)


def test_trained_tensors_that_do_not_fit_are_refused(tmp_path: Path, tiny):
    trained = tmp_path / "trained.safetensors"
    for weights, message in [
        ({"model.layers.9.mlp.up_proj.weight": torch.zeros(64, 32)}, r"has no tensor model\.layers\.9\.mlp"),
        ({"model.norm.weight": torch.zeros(31)}, r"trained model\.norm\.weight is \(31,\), .* \(32,\)"),
        (
            {"lm_head.weight": torch.zeros(261, 32), "model.embed_tokens.weight": torch.ones(261, 32)},
            "lm_head.weight and model.embed_tokens.weight, which are one tensor",
        ),
    ]:
        save_file(weights, trained)
        with pytest.raises(RegrowError, match=message):
            overlay(tiny, trained, tmp_path / "m")
    assert not (tmp_path / "m").exists()


# The proof


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def merge(tmp_path: Path, request):
    """A parent, an adapter of some layers, and the right merge."""
    parent = tiny_checkpoint(tmp_path / "parent", dtype=request.param, initializer_range=0.1)
    adapter = adapter_of(parent, tmp_path / "adapter", spread=0.2, use_rslora=True, target_modules=["q_proj"])
    fuse(parent, adapter, tmp_path / "merged")
    return parent, adapter, Checkpoint.open(tmp_path / "merged")


def test_the_proof_holds_and_evaluates_again(merge):
    parent, adapter, merged = merge
    facts = prove(parent, merged.folder, adapter)
    assert set(facts) == {"merge_difference", "rounding", "parent_loss", "tuned_loss", "merged_loss"}
    assert facts["merge_difference"] < 1e-5
    assert (facts["rounding"] == 0) is (parent.stored_dtype() == torch.float32)
    assert facts["rounding"] < 0.3
    models = {
        "parent_loss": parent.load(dtype="float32"),
        "tuned_loss": PeftModel.from_pretrained(parent.load(dtype="float32"), adapter).eval(),
        "merged_loss": merged.load(dtype="float32"),
    }
    for name, model in models.items():
        total, count = 0.0, 0
        for ids, start in zip(TOKENS, PROMPTS, strict=True):
            labels = torch.tensor([[-100] * start + ids[start:]])
            with torch.no_grad():
                loss = model(input_ids=torch.tensor([ids]), labels=labels).loss
            total, count = total + float(loss) * (len(ids) - start), count + len(ids) - start
        assert facts[name] == pytest.approx(total / count, rel=1e-5), name
    assert facts["tuned_loss"] != pytest.approx(facts["parent_loss"], rel=1e-4)


def lost(parent, adapter, merged, place):
    return parent.folder


def doubled(parent, adapter, merged, place):
    fuse(merged, adapter, place)
    return place


def plain_scale(parent, adapter, merged, place):
    edit_config(adapter, use_rslora=False)
    fuse(parent, adapter, place)
    edit_config(adapter, use_rslora=True)
    return place


def one_flipped(parent, adapter, merged, place):
    name = "model.layers.2.self_attn.q_proj.weight"
    return edit_weights(merged, lambda weights: weights[name].neg_()).folder


def one_bit(parent, adapter, merged, place):
    def change(weights):
        weights["model.layers.3.self_attn.q_proj.weight"].view(torch.uint8)[0, 0] ^= 1

    return edit_weights(merged, change).folder


def swapped_elsewhere(parent, adapter, merged, place):
    first, second = (f"model.layers.{block}.mlp.up_proj.weight" for block in (0, 1))

    def swap(weights):
        weights[first], weights[second] = weights[second], weights[first]

    return edit_weights(merged, swap).folder


def untied(parent, adapter, merged, place):
    def add(weights):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()

    return edit_weights(merged, add).folder


def other_type(parent, adapter, merged, place):
    def widen(weights):
        weights["model.norm.weight"] = weights["model.norm.weight"].double()

    return edit_weights(merged, widen).folder


def other_settings(parent, adapter, merged, place):
    file = merged.folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"rms_norm_eps": 0.1}))
    return merged.folder


@pytest.mark.parametrize(
    ("fault", "how"),
    [
        (lost, "q_proj.weight of the file is not the merge's"),
        (doubled, "q_proj.weight of the file is not the merge's"),
        (plain_scale, "q_proj.weight of the file is not the merge's"),
        (one_flipped, r"layers\.2\.self_attn\.q_proj\.weight of the file is not the merge's"),
        (one_bit, r"layers\.3\.self_attn\.q_proj\.weight of the file is not the merge's"),
        (swapped_elsewhere, r"layers\.0\.mlp\.up_proj\.weight of the file is not the parent's"),
        (untied, "lm_head.weight is only in one"),
        (other_type, r"model\.norm\.weight of the file is not the parent's"),
        (other_settings, "loaded again, it has other logits"),
    ],
)
def test_a_wrong_merge_is_found(tmp_path: Path, merge, fault, how):
    parent, adapter, merged = merge
    folder = fault(parent, adapter, merged, tmp_path / "wrong")
    with pytest.raises(RegrowError, match=f"the merged model is not the adapter's .*{how}.*nothing was kept"):
        prove(parent, folder, adapter)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spread", [0.1, 1e-3])
@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_wrong_arithmetic_is_found(tmp_path: Path, tiny, monkeypatch, kind, spread, factor):
    # The fault is in what fuse and verify share, so the file is what verify expects: PEFT's logits tell.
    adapter = adapter_of(tiny, tmp_path / "adapter", spread=spread, **KINDS[kind])
    right = updates._scale
    monkeypatch.setattr(updates, "_scale", lambda config: factor * right(config))
    fuse(tiny, adapter, tmp_path / "merged")
    with pytest.raises(RegrowError, match=r"is not the adapter's \(in float32 the logits differ by"):
        prove(tiny, tmp_path / "merged", adapter)


@pytest.mark.parametrize("fault", ["lost", "others", "scaled"])
def test_a_wrong_overlay_is_found(tmp_path: Path, tiny, fault):
    trained = trained_of(tiny, tmp_path / "trained.safetensors", SETS["bitfit"])
    overlay(tiny, trained, tmp_path / "merged")
    merged = Checkpoint.open(tmp_path / "merged")
    if fault == "lost":
        merged = tiny
    elif fault == "others":
        edit_weights(merged, lambda weights: weights["model.layers.0.mlp.up_proj.weight"].mul_(1.01))
    else:
        edit_weights(merged, lambda weights: weights["model.norm.weight"].mul_(1.01))
    with pytest.raises(RegrowError, match=r"the merged model is not the trained one .*nothing was kept"):
        prove(tiny, merged.folder, trained=trained)


def test_an_update_that_rounding_swallows_is_reported_not_refused(tmp_path: Path, caplog):
    parent = tiny_checkpoint(tmp_path / "parent", dtype=torch.bfloat16, initializer_range=0.1)
    adapter = adapter_of(parent, tmp_path / "adapter", spread=1e-5)
    fuse(parent, adapter, tmp_path / "merged")
    with caplog.at_level(logging.WARNING, logger="regrow"):
        facts = prove(parent, tmp_path / "merged", adapter)
    assert facts["rounding"] > 0.5
    assert "rounding to the stored type cost" in caplog.text


def test_an_adapter_that_does_nothing_is_proved_too(tmp_path: Path, tiny):
    adapter = adapter_of(tiny, tmp_path / "adapter", spread=0)
    fuse(tiny, adapter, tmp_path / "merged")
    facts = prove(tiny, tmp_path / "merged", adapter)
    assert facts["rounding"] == 0
    assert facts["parent_loss"] == facts["tuned_loss"] == facts["merged_loss"]


def test_the_sample_is_made_of_responses(tmp_path: Path, tiny):
    adapter = adapter_of(tiny, tmp_path / "adapter")
    fuse(tiny, adapter, tmp_path / "merged")

    def of(tokens, prompts):
        return verify(
            tiny, tmp_path / "merged", adapter=adapter, trained=None, tokens=tokens, prompts=prompts
        )

    whole = of([[3, 9, 40, 41, 42, 4]], [2])
    # An example without a response and one whose prompt fills the window change nothing.
    assert of([[3, 9], [7] * 300 + [8], [3, 9, 40, 41, 42, 4]], [2, 300, 2]) == whole
    # Where every prompt is long, the loss still is on the response.
    assert of([[7] * 300 + [8, 9]], [300])["merged_loss"] > 0
    with pytest.raises(RegrowError, match="no example has a response"):
        of([[3, 9]], [2])
