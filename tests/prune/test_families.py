"""Every family: the pruned files are the surgery on the live model, and stock transformers loads them."""

import pytest
import torch
from transformers import AutoConfig

from regrow import anatomy
from regrow.anatomy import widths_of
from regrow.errors import InputError
from regrow.importance import ImportanceSpec, compute
from regrow.prune import PrunePlan, PruneSpec, apply, make_plan, pruned_config
from tests.families import DEPTH_ONLY, FAMILIES, IDS, SPREAD, cut_live, generates_alike, logits, mask_live
from tests.tiny import tiny_checkpoint

TEXTS = ["Grass grows back after the cut.", "Rain falls on the field, and then the sun shines on it."]


@pytest.fixture(params=FAMILIES)
def base(request, tmp_path):
    return tiny_checkpoint(tmp_path / "base", family=request.param, **SPREAD, **FAMILIES[request.param])


def plan_width(base, **units):
    importance = compute(base, TEXTS, ImportanceSpec())
    return make_plan(base, PruneSpec(**units), importance)


@pytest.mark.parametrize("drop", ["1:4", "0,3,5", "4:6"])
def test_depth_equals_surgery_on_the_live_model(base, tmp_path, drop):
    plan = make_plan(base, PruneSpec(drop=drop))
    pruned = apply(base, plan, tmp_path / "pruned")
    model = pruned.load(dtype="float32")
    assert torch.equal(logits(model), logits(cut_live(base, plan)))
    assert generates_alike(model)
    AutoConfig.from_pretrained(pruned.folder).save_pretrained(tmp_path / "again")


@pytest.mark.parametrize("drop", ["0:2", "1:3,4"])
@pytest.mark.parametrize("family", DEPTH_ONLY)
def test_depth_of_families_without_width(tmp_path, family, drop):
    base = tiny_checkpoint(tmp_path / "base", family=family, **DEPTH_ONLY[family])
    plan = make_plan(base, PruneSpec(drop=drop))
    pruned = apply(base, plan, tmp_path / "pruned")
    model = pruned.load(dtype="float32")
    assert torch.equal(logits(model), logits(cut_live(base, plan)))
    assert generates_alike(model)
    assert compute(base, TEXTS, ImportanceSpec()).blocks == 6


def test_every_family_is_tried_here():
    assert set(anatomy.FAMILIES) == {*FAMILIES, *DEPTH_ONLY, "olmo3"}


@pytest.mark.parametrize("wrong", [{"num_hidden_layers": 5}, {"intermediate_size": 48}])
def test_a_configuration_that_the_weights_would_not_fill_is_refused(tmp_path, monkeypatch, wrong):
    """transformers would load it with a warning, and fill the rest with noise."""
    base = tiny_checkpoint(tmp_path / "base")
    monkeypatch.setattr("regrow.prune.write.pruned_config", lambda *given: pruned_config(*given) | wrong)
    with pytest.raises(InputError, match="would not fill the pruned model"):
        apply(base, make_plan(base, PruneSpec(drop="1:3")), tmp_path / "pruned")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_pruning_nothing_changes_no_bit(base, tmp_path):
    everything = PrunePlan(source_digest=base.digest, depth=6, blocks="0:6", criterion="given")
    same = apply(base, everything, tmp_path / "same")
    assert everything.removes_nothing
    before, after = base.load(dtype="float32"), same.load(dtype="float32")
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name]), name
    assert torch.equal(logits(before), logits(after))
    assert same.config == base.config


def test_keeping_every_unit_changes_no_bit(base, tmp_path):
    widths = widths_of(base.config, "config.json")
    every = {
        name: {"of": getattr(widths, name), "kept": [f"0:{getattr(widths, name)}"] * count}
        for name, count in (("neurons", 6), ("groups", 6), ("channels", 1))
    }
    plan = PrunePlan(source_digest=base.digest, depth=6, blocks="0:6", criterion="given", **every)
    same = apply(base, plan, tmp_path / "same")
    before, after = base.load(dtype="float32"), same.load(dtype="float32")
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name]), name
    assert torch.equal(logits(before), logits(after))


WIDTHS = {
    "neurons": {"neurons": 40},
    "groups": {"groups": 1},
    "channels": {"channels": 24},
    "all of them, and blocks": {"neurons": 40, "groups": 1, "channels": 24, "drop": "1:3"},
}


@pytest.mark.parametrize("units", WIDTHS.values(), ids=WIDTHS)
def test_width_equals_the_masked_model(base, tmp_path, units):
    if base.config["model_type"] == "gpt_neox" and ("groups" in units or "channels" in units):
        units = units | {"groups": 3, "channels": 24}  # its heads fill the channels
    plan = plan_width(base, **units)
    pruned = apply(base, plan, tmp_path / "pruned")
    expected = logits(mask_live(base, plan))
    assert expected.std() > 0.05
    # What is left of a difference: rescaled norms are rounded to the stored type.
    torch.testing.assert_close(logits(pruned.load(dtype="float64")), expected, atol=2e-4, rtol=2e-4)
    assert generates_alike(pruned.load(dtype="float32"))
    widths = widths_of(pruned.config, "config.json")
    for name, count in units.items():
        if name != "drop":
            assert getattr(widths, name) == count
    assert widths.head_dim == 8
    assert pruned.parameters < base.parameters


def test_padding_on_either_side_gives_the_logits_of_no_padding(base, tmp_path):
    """The mask of the pruned configuration works as before: what serving engines rely on."""
    pruned = apply(base, make_plan(base, PruneSpec(drop="2:4")), tmp_path / "pruned")
    model = pruned.load(dtype="float32")
    alone = logits(model, IDS[:1, :20])[0, -1]
    padded = torch.cat([torch.zeros(1, 5, dtype=torch.long), IDS[:1, :20]], dim=1)
    mask = (torch.arange(25) >= 5).long()[None]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    torch.testing.assert_close(
        logits(model, padded, attention_mask=mask, position_ids=positions)[0, -1], alone, atol=1e-4, rtol=1e-4
    )


def permuted(base, folder):
    """The same function with its neurons and KV groups in another order."""
    from safetensors.torch import load_file, save_file

    from regrow.checkpoint import Checkpoint

    base.copy_to(folder)
    weights = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(5)
    for block in range(6):
        order = torch.randperm(64, generator=generator)
        for name in (n for n in weights if n.startswith(f"model.layers.{block}.mlp.")):
            weights[name] = weights[name][:, order] if "down_proj" in name else weights[name][order]
        for kind, size in (("q_proj", 16), ("k_proj", 8), ("v_proj", 8)):
            name = f"model.layers.{block}.self_attn.{kind}.weight"
            weights[name] = weights[name].unflatten(0, (2, size)).flip(0).flatten(0, 1)
        name = f"model.layers.{block}.self_attn.o_proj.weight"
        weights[name] = weights[name].unflatten(1, (2, 16)).flip(1).flatten(1, 2)
    (folder / "model.safetensors").unlink()  # a link to the original's
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    return Checkpoint.open(folder)


def test_the_order_of_units_does_not_matter(tmp_path):
    base = tiny_checkpoint(tmp_path / "base", **SPREAD)
    other = permuted(base, tmp_path / "other")
    torch.testing.assert_close(logits(base.load()), logits(other.load()), atol=1e-4, rtol=1e-4)
    pruned = [
        apply(one, plan_width(one, neurons=40, groups=1), tmp_path / f"pruned-{i}")
        for i, one in enumerate((base, other))
    ]
    torch.testing.assert_close(logits(pruned[0].load()), logits(pruned[1].load()), atol=1e-4, rtol=1e-4)
