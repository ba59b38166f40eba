import pytest

from regrow.errors import InputError
from regrow.merge import MergeSpec
from regrow.parsing import parse


def spec(**settings) -> MergeSpec:
    return parse(MergeSpec, settings, "merge")


def test_what_configurations_say_today_is_still_said():
    assert spec() == spec(method="slerp", t=0.5) == MergeSpec()
    assert spec(method="slerp", t=0.25).t == 0.25
    assert not MergeSpec().needs_base


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "linear", "weights": [0.3, 0.7], "dtype": "bfloat16"},
        {"method": "ties", "density": 0.2, "weights": [[0, 1], 0.5]},
        {"method": "dare_ties", "density": [0.2, [0.5, 0.8]], "seed": 3, "lambda": 0.7},
        {"method": "nuslerp", "t": [0, 0.5, 1], "patterns": [{"pattern": "*.mlp.*", "t": 0.1}]},
        {"method": "task_arithmetic", "patterns": [{"pattern": "*", "weights": [None, 0.5]}]},
    ],
)
def test_a_spec_survives_json(settings):
    # Steps get their parameters as JSON with every default filled in.
    one = spec(**settings)
    assert MergeSpec.model_validate(one.model_dump(mode="json")) == one
    assert MergeSpec.model_validate_json(one.model_dump_json()) == one
    assert isinstance(hash(one), int)


def test_defaults_are_the_methods_own():
    assert spec(method="ties", density=0.5).normalize is True
    dare = spec(method="dare_linear", density=0.5)
    assert (dare.normalize, dare.lambda_, dare.seed, dare.t) == (False, 1.0, 0, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"t": 2}, r"^merge\.t: 2 is out of range; it goes from 0 to 1$"),
        ({"t": "much"}, r"^merge\.t: 'much' is not a number$"),
        ({"t": [0.5]}, r"^merge\.t: a gradient has two numbers or more"),
        ({"tt": 1}, r"^merge\.tt: unknown key"),
        ({"method": "magic"}, r"^merge\.method: .*'slerp'"),
        ({"weights": [1, 1]}, r"weights: method slerp does not have it; it has t"),
        ({"density": 0.5}, r"density: method slerp does not have it"),
        ({"method": "linear", "t": 0.5}, r"t: method linear does not have it; it has weights, normalize"),
        ({"method": "linear", "seed": 1}, r"seed: method linear does not have it"),
        ({"method": "ties"}, r"density: method ties needs it"),
        ({"method": "ties", "density": 0}, r"^merge\.density: 0 is out of range; it goes above 0 up to 1"),
        ({"method": "ties", "density": 1.5}, r"^merge\.density: 1\.5 is out of range"),
        ({"method": "linear", "weights": 0.5}, r"^merge\.weights: takes a list"),
        ({"method": "linear", "weights": [None, 1]}, r"weights: null is for patterns"),
        ({"method": "linear", "weights": [True, 1]}, r"^merge\.weights: True is not a number"),
        ({"dtype": "int8"}, r"^merge\.dtype: "),
        ({"patterns": [{"pattern": "*"}]}, r"^merge\.patterns\.0: a pattern gives t, weights or density"),
        ({"patterns": [{"pattern": "*", "density": 1}]}, r"patterns\.0\.density: method slerp does not have it"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_by_field(settings, message):
    with pytest.raises(InputError, match=message):
        spec(**settings)


def test_entries_are_for_the_models_there_are():
    with pytest.raises(InputError, match=r"^merge\.weights: has 2 entries for 3 models"):
        spec(method="linear", weights=[1, 1]).check_count(3)
    with pytest.raises(InputError, match=r"^merge\.patterns\.0\.density: has 1 entries for 2 models"):
        spec(method="ties", density=1, patterns=[{"pattern": "*", "density": [1]}]).check_count(2)
    with pytest.raises(InputError, match=r"^merge\.t: is for two models; 3 "):
        spec(t=0.4).check_count(3)
    spec().check_count(3)


def test_gradients_run_over_the_blocks():
    one = spec(t=[0, 1, 0.5])
    places = [one.at("w", place, 2).t for place in (0, 0.25, 0.5, 0.75, 1)]
    assert places == [0, 0.5, 1, 0.75, 0.5]
    ties = spec(method="ties", density=[[0.2, 0.8], 0.5], weights=[1, [0, 2]])
    assert ties.at("w", 0.5, 2).density == pytest.approx((0.5, 0.5))
    assert ties.at("w", 0.5, 2).weights == (1, 1)


def test_the_first_pattern_that_gives_a_parameter_decides():
    one = spec(
        method="ties", weights=[1, 1], density=0.5,
        patterns=[
            {"pattern": "*.mlp.*", "weights": [None, 3]},
            {"pattern": "*.mlp.up*", "weights": [4, 5], "density": 0.1},
        ],
    )  # fmt: skip
    name = "model.layers.0.mlp.up_proj.weight"
    assert one.at(name, 0, 2).weights == (4, 3)
    assert one.at(name, 0, 2).density == (0.1, 0.1)
    assert one.at("model.layers.0.mlp.down_proj.weight", 0, 2).weights == (1, 3)
    assert one.at("model.norm.weight", 0, 2).weights == (1, 1)
    assert one.unmatched([name, "x"]) == []
    assert one.unmatched(["model.layers.0.mlp.down_proj.weight"]) == ["*.mlp.up*"]


def test_weights_are_equal_unless_given():
    assert spec(method="linear").at("w", 0, 4).weights == (0.25,) * 4
