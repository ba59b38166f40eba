"""Plans: readable, checked, and made from what a user says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from regrow.errors import InputError
from regrow.importance import ImportanceSpec, compute
from regrow.prune import PrunePlan, PruneSpec, apply, format_units, make_plan, parse_units
from tests.tiny import tiny_checkpoint

TEXTS = ["Grass grows back after the cut.", "Rain falls on the field, and then the sun shines on it."]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("plan") / "base", initializer_range=0.3)


@pytest.fixture(scope="module")
def importance(base):
    return compute(base, TEXTS, ImportanceSpec(all_tokens=True))


@given(st.sets(st.integers(0, 500)))
def test_units_survive_their_notation(numbers):
    ordered = tuple(sorted(numbers))
    assert not ordered or parse_units(format_units(ordered)) == ordered


@pytest.mark.parametrize(
    "text", ["", "3:3", "5:2", "a:b", "1,1", "4,2", "1:", ":3", "-1", [3, 2], [1.5], [True], 7]
)
def test_what_is_no_list_of_units_is_refused(text):
    with pytest.raises(ValueError, match=r"ranges|empty|whole numbers|rise"):
        parse_units(text)


def test_a_plan_is_a_small_readable_file(base, importance, tmp_path):
    plan = make_plan(base, PruneSpec(drop="1,3:5", neurons=40, groups=1, channels=24), importance)
    plan.save(tmp_path / "plan.json")
    assert PrunePlan.read(tmp_path / "plan.json") == plan
    stored = json.loads((tmp_path / "plan.json").read_text())
    assert stored["blocks"] == "0,2,5"
    assert len(stored["neurons"]["kept"]) == 3
    assert "Removed 3 of 6 blocks: 1,3:5" in plan.describe()
    assert "model.layers.1, model.layers.3 to model.layers.4" in plan.describe()
    assert "Kept 40 of 64 MLP neurons" in plan.describe()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": "0:7"}, "below 6"),
        ({"blocks": "x"}, "blocks: 'x' is not a list of ranges"),
        ({"neurons": {"of": 64, "kept": ["0:4", "0:5"]}}, "every block must keep as many"),
        ({"neurons": {"of": 64, "kept": ["0:4"]}}, "1 entries for 4 kept blocks"),
        ({"channels": {"of": 32, "kept": ["0:33"]}}, "below 32"),
        ({"colour": "green"}, "colour"),
        ({"format": 2}, "format"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(base, tmp_path, change, message):
    plan = make_plan(base, PruneSpec(drop="2:4"))
    (tmp_path / "plan.json").write_text(json.dumps(plan.model_dump() | change))
    with pytest.raises(InputError, match=message) as caught:
        PrunePlan.read(tmp_path / "plan.json")
    assert "plan.json" in str(caught.value)


def test_the_units_of_highest_score_stay(base, importance):
    plan = make_plan(base, PruneSpec(blocks=2, neurons=10, groups=1), importance)
    assert len(plan.removed) == 2
    for kept, block in zip(plan.neurons.kept, plan.blocks, strict=True):
        scores = importance.width.neurons[block]
        gone = set(range(64)) - set(kept)
        assert min(scores[unit] for unit in kept) >= max(scores[unit] for unit in gone)
    for kept, block in zip(plan.groups.kept, plan.blocks, strict=True):
        assert importance.width.groups[block][kept[0]] == max(importance.width.groups[block])


@pytest.mark.parametrize(
    ("by", "ratio"),
    [("depth", 0.7), ("neurons", 0.7), ("groups", 0.9), ("channels", 0.7), ("width", 0.7), ("width", 0.9)],
)
def test_a_plan_for_a_size_comes_as_near_as_it_can(base, importance, tmp_path, by, ratio):
    plan = make_plan(base, PruneSpec(to_ratio=ratio, by=by), importance)
    pruned = apply(base, plan, tmp_path / "pruned")
    steps = {"depth": 0.08, "neurons": 0.04, "groups": 0.16, "channels": 0.13, "width": 0.04}
    assert pruned.parameters / base.parameters == pytest.approx(ratio, abs=steps[by])


def test_neurons_and_channels_go_evenly(base, importance):
    plan = make_plan(base, PruneSpec(to_ratio=0.6, by="width"), importance)
    shares = plan.neurons.count / plan.neurons.of, plan.channels.count / plan.channels.of
    assert abs(shares[0] - shares[1]) < 0.2


def test_a_size_can_be_written_as_people_do(base):
    assert PruneSpec(to_params="6.7B").to_params == 6_700_000_000
    assert PruneSpec(to_params="135m").to_params == 135_000_000
    plan = make_plan(base, PruneSpec(to_params=str(base.parameters // 2), criterion="reverse"))
    assert plan.removed[-1] == 4, "the very last block stays"


def test_depth_and_width_share_a_target(base, importance, tmp_path):
    plan = make_plan(base, PruneSpec(blocks=1, to_ratio=0.7, by="neurons"), importance)
    assert len(plan.removed) == 1
    assert plan.neurons.count < 64
    pruned = apply(base, plan, tmp_path / "pruned")
    assert pruned.parameters / base.parameters == pytest.approx(0.7, abs=0.04)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"blocks": 2, "drop": "1:3"},
        {"to_params": "1K", "to_ratio": 0.5},
        {"blocks": 2, "to_ratio": 0.5},
        {"neurons": 8, "to_ratio": 0.5, "by": "neurons"},
        {"to_params": "many"},
        {"to_ratio": 1.5},
        {"criterion": "magic", "blocks": 1},
    ],
)
def test_contradictions_are_refused(settings):
    with pytest.raises(ValidationError):
        PruneSpec(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop": "0:6"}, "at least one block must stay"),
        ({"drop": "4:7"}, "no block 6"),
        ({"neurons": 65}, "prune.neurons: 65 cannot stay, the model has 64"),
        ({"blocks": 6}, "choose 1 to 5"),
        ({"blocks": 5, "criterion": "reverse"}, "choose 1 to 4"),
        ({"to_ratio": 0.01}, "cannot be reached"),
        ({"to_ratio": 0.999}, "nearest to the unpruned model"),
        ({"to_ratio": 0.01, "by": "neurons"}, "cannot be reached"),
        ({"blocks": 2, "criterion": "greedy"}, "importance.search with the criterion greedy"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(base, importance, settings, message):
    with pytest.raises(InputError, match=message):
        make_plan(base, PruneSpec(**settings), importance)


def test_importance_of_another_model_is_refused(importance, tmp_path):
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="measured on the checkpoint"):
        make_plan(other, PruneSpec(blocks=2), importance)


def test_width_without_scores_is_refused(base):
    depth_only = compute(base, TEXTS, ImportanceSpec(width=False))
    with pytest.raises(InputError, match="measured with width"):
        make_plan(base, PruneSpec(neurons=8), depth_only)


def test_width_of_a_family_without_anatomy_is_refused(tmp_path):
    base = tiny_checkpoint(tmp_path / "base", family="starcoder2")
    measured = compute(base, TEXTS, ImportanceSpec())
    assert measured.width is None
    with pytest.raises(InputError, match="only the depth"):
        make_plan(base, PruneSpec(neurons=8), measured)
    pruned = apply(base, make_plan(base, PruneSpec(blocks=2), measured), tmp_path / "pruned")
    assert pruned.blocks == 4


def test_a_configuration_that_transformers_refuses_leaves_nothing(base, importance, tmp_path):
    plan = make_plan(
        base, PruneSpec(channels=30), importance
    )  # not a multiple of the heads, which Llama demands
    with pytest.raises(InputError, match="transformers refuses"):
        apply(base, plan, tmp_path / "pruned")
    assert list(tmp_path.iterdir()) == []


def test_heads_that_fill_the_channels_are_cut_with_them(tmp_path):
    base = tiny_checkpoint(tmp_path / "base", family="gpt_neox")
    measured = compute(base, TEXTS, ImportanceSpec())
    with pytest.raises(InputError, match="keep 2 groups together with 16 channels"):
        make_plan(base, PruneSpec(groups=2), measured)


def test_a_tensor_that_the_family_does_not_have_is_refused(base, importance, tmp_path):
    from safetensors.torch import load_file, save_file

    from regrow.checkpoint import Checkpoint

    base.copy_to(tmp_path / "odd")
    weights = load_file(tmp_path / "odd" / "model.safetensors")
    weights["model.layers.0.mlp.extra.weight"] = weights["model.norm.weight"].clone()
    (tmp_path / "odd" / "model.safetensors").unlink()
    save_file(weights, tmp_path / "odd" / "model.safetensors", {"format": "pt"})
    odd = Checkpoint.open(tmp_path / "odd")
    plan = make_plan(odd, PruneSpec(neurons=8), importance.model_copy(update={"model_digest": odd.digest}))
    with pytest.raises(InputError, match=r"mlp\.extra\.weight is not known"):
        apply(odd, plan, tmp_path / "pruned")
