"""Models on paper against models that are built, saved and pruned."""

from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from regrow.capacity import device
from regrow.capacity.model import sizes
from regrow.capacity.paper import cut, paper
from regrow.capacity.shapes import config_for, known_shapes, recognise
from regrow.errors import InputError
from regrow.files import read_json
from regrow.prune import PruneSpec, apply, make_plan
from regrow.selfdata.engines.transformers import _footprint
from regrow.source import ModelSpec
from regrow.tune.rehearsal import _Live
from tests.families import DEPTH_ONLY, FAMILIES
from tests.tiny import tiny_checkpoint

# As their makers publish them.
PUBLISHED = {
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.1-70B": 70_553_706_496,
    "Llama-3.1-405B": 405_853_388_800,
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824,
    "SmolLM2-135M": 134_515_008,
    "Mistral-7B": 7_241_732_096,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-Coder-1.5B": 1_543_714_304,
    "Qwen2.5-7B": 7_615_616_512,
}
H100 = device("h100")


def test_every_known_shape_has_its_published_parameters(tmp_path: Path):
    assert set(PUBLISHED) == set(known_shapes())
    for name, count in PUBLISHED.items():
        one = paper(known_shapes()[name], name, tmp_path)
        assert one.parameters == count, name
        assert one.nbytes == 2 * count


@pytest.mark.parametrize("family", [*FAMILIES, *DEPTH_ONLY])
def test_a_model_on_paper_has_the_bytes_of_the_one_on_disk(tmp_path: Path, family: str):
    settings = FAMILIES.get(family) or DEPTH_ONLY.get(family) or {}
    real = tiny_checkpoint(tmp_path / "real", family=family, dtype=torch.bfloat16, **settings)
    written = paper(read_json(real.folder / "config.json"), family, tmp_path / "paper")
    assert written.parameters == real.parameters
    assert written.nbytes == sum(info.nbytes for info in real.tensors().values())
    file = (real.folder / "model.safetensors").stat().st_size
    assert written.nbytes < file < written.nbytes + 400 * len(real.tensors()) + 1000  # the header


SPECS = {
    "blocks": PruneSpec(blocks=2),
    "given": PruneSpec(drop="1:3"),
    "size": PruneSpec(to_ratio=0.8),
    "neurons": PruneSpec(neurons=48),
    "groups": PruneSpec(groups=1, blocks=1),
    "channels": PruneSpec(channels=24),
    "width": PruneSpec(to_ratio=0.7, by="width"),
}


@pytest.mark.parametrize("how", SPECS)
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
def test_a_cut_on_paper_has_the_size_of_a_real_one(tmp_path: Path, family: str, how: str):
    from regrow.capacity.paper import _nothing_measured

    spec = SPECS[how]
    real = tiny_checkpoint(tmp_path / "real", family=family, **FAMILIES[family])
    base = paper(read_json(real.folder / "config.json"), family, tmp_path / "paper")
    scores = _nothing_measured(base).model_copy(update={"model_digest": real.digest})
    chosen = spec if spec.drop else spec.model_copy(update={"criterion": "random"})
    pruned = apply(real, make_plan(real, chosen, scores), tmp_path / "pruned")
    thought = cut(base, spec, tmp_path / "paper")
    assert thought.parameters == pruned.parameters < real.parameters
    assert {name: info.shape for name, info in thought.tensors().items()} == {
        name: info.shape for name, info in pruned.tensors().items()
    }


def test_operations_are_those_that_torch_counts(tmp_path: Path):
    config = known_shapes()["SmolLM2-135M"]
    model = sizes(paper(config, "SmolLM2", tmp_path), H100)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        whole = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**config), attn_implementation="eager"
        ).eval()
        ids = torch.zeros(2, 100, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            whole(ids, use_cache=False)
        assert 200 * model.forward(100) == counter.get_total_flops()
        with FlopCounterMode(display=False) as counter:
            whole.base_model(ids, use_cache=False)
        assert 200 * model.backbone(100) == counter.get_total_flops()
    # The plan takes a token to attend to half of its text: what a kernel that skips the mask computes.
    assert model.reads(200, 100, 200).flops == 200 * model.forward(50)


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_and_values_take_the_bytes_that_the_cache_holds(tmp_path: Path, family: str):
    settings = {name: value for name, value in FAMILIES[family].items() if "window" not in name}
    real = tiny_checkpoint(tmp_path / "real", family=family, dtype=torch.bfloat16, **settings)
    model = sizes(paper(read_json(real.folder / "config.json"), family, tmp_path / "paper"), H100)
    loaded = real.load(dtype="bfloat16", device="cpu")
    with torch.no_grad():
        cache: DynamicCache = loaded(torch.ones(3, 12, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == 3 * 12 * model.cache
    # The generating engine reserves the same, and so its batches are as large as the plan's.
    row, token = _footprint(loaded)
    one = real.config
    assert row == 16 * model.vocabulary
    # (GPT-NeoX has no KV heads of its own; the engine believes a configuration that names some.)
    assert family == "gpt_neox" or token - model.cache == 2 * (
        2 * one["intermediate_size"] + 8 * one["hidden_size"]
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "olmo2"])
def test_a_pass_holds_what_the_formula_says(tmp_path: Path, family: str, dtype: str):
    """Bytes alive at the peak, counted by torch, of a mid-sized model."""
    config = {
        "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 3, "num_attention_heads": 8,
        "num_key_value_heads": 4, "vocab_size": 1000, "model_type": family, "dtype": dtype,
    }  # fmt: skip
    model = sizes(paper(config, family, tmp_path), H100, dtype)
    loaded = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**config), dtype=getattr(torch, dtype)
    ).eval()
    live = _Live()
    live.ignore(loaded)
    with torch.no_grad(), live:
        loaded.base_model(torch.zeros(4, 128, dtype=torch.long), use_cache=False)
    assert 0.75 < live.peak / (4 * 128 * model.working) < 1.15


def test_models_are_recognised_by_the_last_part_of_their_name():
    assert recognise("hub:meta-llama/Llama-3.1-8B-Instruct@0e9e39f") == "Llama-3.1-8B"
    assert recognise("hub:meta-llama/Llama-3.1-80B@0e9e39f") is None
    assert recognise("pypi:x==1#a/SmolLM2-135M-Instruct.Q4_1.gguf") == "SmolLM2-135M"
    assert recognise("hub:Qwen/Qwen2.5-Coder-1.5B-Instruct@abc") == "Qwen2.5-Coder-1.5B"


def test_a_shape_comes_from_a_folder_a_file_or_a_name(tmp_path: Path, tiny):
    there = ModelSpec(source=str(tiny.folder))
    assert config_for(there) == (str(tiny.folder), tiny.config)
    assert config_for(there, str(tiny.folder / "config.json"))[1] == tiny.config
    assert config_for(there, "llama-3.1-70b")[1]["num_hidden_layers"] == 80
    unknown = ModelSpec(source="hub:org/unknown@0123456789abcdef0123456789abcdef01234567")
    for spec, named in ((unknown, None), (there, "llama-9"), (there, str(tmp_path / "no.json"))):
        with pytest.raises(InputError):
            config_for(spec, named)


def test_what_transformers_does_not_know_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="unknown architecture"):
        paper({"model_type": "nonesuch"}, "x", tmp_path)
    with pytest.raises(InputError, match="dtype"):
        paper({"model_type": "llama", "dtype": "int8"}, "x", tmp_path)
    with pytest.raises(InputError, match="cannot lay this model out"):
        paper({"model_type": "llama", "hidden_size": 30, "num_attention_heads": "x"}, "x", tmp_path)
