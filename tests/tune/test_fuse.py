from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from regrow import tensors
from regrow.checkpoint import Checkpoint
from regrow.errors import RegrowError
from regrow.tune.data import Examples
from regrow.tune.fuse import check, fuse
from regrow.tune.job import Job, library_versions
from regrow.tune.recipe import Recipe
from tests.tiny import tiny_checkpoint

IDS = [[3, 9, 40, 41, 42, 4], [3, 50, 60, 70]]


def adapter_of(parent: Checkpoint, folder: Path, **changes) -> Path:
    """An adapter with random factors, as PEFT saves it."""
    settings = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | changes
    model = get_peft_model(parent.load(dtype="float32"), LoraConfig(**settings))
    torch.manual_seed(5)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = 0.1 * torch.randn_like(weight)
    model.save_pretrained(folder)
    return folder


def logits(model) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat([model(torch.tensor([ids])).logits.flatten() for ids in IDS])


@pytest.mark.parametrize(
    ("family", "config", "changes"),
    [
        ("llama", {}, {}),
        ("llama", {"tie_word_embeddings": False}, {"use_rslora": True}),
        ("qwen2", {}, {"target_modules": ["q_proj", "down_proj"]}),
        (
            "gpt2",
            {"n_embd": 32, "n_head": 4, "n_layer": 2},
            {"target_modules": ["c_attn"], "fan_in_fan_out": True},
        ),
    ],
)
def test_equals_peft(tmp_path: Path, family, config, changes):
    parent = tiny_checkpoint(tmp_path / "parent", family=family, **config)
    adapter = adapter_of(parent, tmp_path / "adapter", **changes)
    fuse(parent, adapter, tmp_path / "merged", max_shard_bytes=40_000)
    assert len(list((tmp_path / "merged").glob("*.safetensors"))) > 1
    got = logits(Checkpoint.open(tmp_path / "merged").load())
    want = logits(PeftModel.from_pretrained(parent.load(), adapter).eval())
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert (want - logits(parent.load())).abs().max() > 0.01


def test_rounds_once_and_touches_nothing_else(tmp_path: Path):
    parent = tiny_checkpoint(tmp_path / "parent", dtype=torch.bfloat16)
    adapter = adapter_of(parent, tmp_path / "adapter", target_modules=["q_proj"])
    fuse(parent, adapter, tmp_path / "merged")
    factors = tensors.read_header(adapter / "adapter_model.safetensors")
    for name, info in Checkpoint.open(tmp_path / "merged").tensors().items():
        got, old = tensors.load(info, name), tensors.load(parent.tensors()[name], name)
        assert got.dtype == torch.bfloat16
        if "q_proj" in name:
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            a, b = (tensors.load(factors[f"{stem}.lora_{x}.weight"], f"{stem}.lora_{x}.weight") for x in "AB")
            want = (old.double() + 3 * b.double() @ a.double()).bfloat16()
            assert (got == want).float().mean() > 0.999
            assert not torch.equal(got, old)
        else:
            assert torch.equal(got, old), name


def test_other_adapters_and_other_parents_are_refused(tmp_path: Path, tiny):
    dora = adapter_of(tiny, tmp_path / "dora", use_dora=True)
    with pytest.raises(RegrowError, match="only plain LoRA"):
        fuse(tiny, dora, tmp_path / "m")
    adapter = adapter_of(tiny, tmp_path / "adapter")
    shallow = tiny_checkpoint(tmp_path / "shallow", num_hidden_layers=3)
    with pytest.raises(RegrowError, match=r"has no tensor model\.layers\.3"):
        fuse(shallow, adapter, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_wrong_merge_is_found(tmp_path: Path, tiny):
    adapter = adapter_of(tiny, tmp_path / "adapter")
    job = Job(
        folder=tmp_path, checkpoint=tiny.folder, parent=tiny.digest, data="", recipe=Recipe(),
        dtype="float32", device="cpu", processes=1, threads=1, owner=1, versions=library_versions(),
    )  # fmt: skip
    examples = Examples(tokens=IDS, prompts=[1, 1])
    fuse(tiny, adapter, tmp_path / "right")
    assert check(job, adapter, tmp_path / "right", examples) < 1e-5
    with pytest.raises(RegrowError, match="the merged model is not the adapter's"):
        check(job, adapter, tiny.folder, examples)  # the parent: an adapter that was lost
