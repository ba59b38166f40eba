import pytest
import yaml
from pydantic import TypeAdapter

from regrow.errors import InputError
from regrow.parsing import parse
from regrow.tune.recipe import (
    Continual,
    Distill,
    Lora,
    Recipe,
    Sft,
    TeacherCorrection,
    named_recipes,
    read_recipe,
)

RECIPES = TypeAdapter(Recipe)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"learning_rte": 1e-3}, "r.yaml.learning_rte: unknown key"),
        ({"learning_rate": 0}, "r.yaml.learning_rate"),
        ({"epochs": -1}, "r.yaml.epochs"),
        ({"batch_size": 0}, "r.yaml.batch_size"),
        ({"method": "dpo"}, "unknown method; choose among sft, distill, teacher_correction, continual"),
        ({"trainable": {"r": 0}}, "r.yaml.trainable.r"),
        ({"trainable": {"rank": 8}}, "r.yaml.trainable.rank: unknown key"),
        ({"trainable": {"kind": "ia3"}}, "r.yaml.trainable: unknown kind; choose among lora, rslora"),
        ({"trainable": {"target_modules": []}}, "r.yaml.trainable.target_modules.*name linear layers"),
        ({"trainable": {"dropout": 1.0}}, "r.yaml.trainable.dropout"),
        ({"trainable": {"kind": "full", "r": 8}}, "r.yaml.trainable.r: unknown key"),
        ({"max_steps": 0}, "r.yaml.max_steps"),
        ({"max_steps": 1, "max_tokens": 1}, "max_steps and max_tokens are both set"),
        ({"micro_batch_size": 3}, "micro_batch_size 3 does not divide batch_size 8"),
        ({"micro_batch_size": 0}, "micro_batch_size 0"),
        ({"warmup_ratio": 1.0}, "r.yaml.warmup_ratio"),
        ({"responses": "both"}, "r.yaml.responses"),
        ({"temperature": 2}, "r.yaml.temperature: unknown key"),  # sft has none
        ({"method": "distill", "temperature": 0}, "r.yaml.temperature"),
        ({"method": "distill", "teacher": "top_k", "hidden_states": True}, "need teacher: online"),
        ({"method": "continual", "first": {"trainable": {"kind": "prefix"}}}, "prefix cannot be merged"),
        (
            {
                "method": "continual",
                "freeze": {"most_changed": 1},
                "second": {"trainable": {"kind": "bitfit"}},
            },
            "freeze needs lora or full",
        ),
    ],
)
def test_impossible_values_are_refused_by_the_name_of_their_field(bad, message):
    with pytest.raises(InputError, match=message) as error:
        parse(Recipe, bad, "r.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "recipe",
    [
        Sft(trainable=Lora(r=8, target_modules=("q_proj",), blocks=(1, 2))),
        Distill(temperature=2.0, hidden_states=True),
        TeacherCorrection(correction=Sft(max_steps=3)),
        Continual(second=Distill(teacher="top_k")),
    ],
)
def test_a_recipe_is_a_value(recipe):
    assert RECIPES.validate_python(recipe.model_dump()) == recipe
    assert RECIPES.validate_json(recipe.model_dump_json()) == recipe
    assert RECIPES.validate_python(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))) == recipe


def test_a_recipe_without_a_method_is_sft_with_lora():
    assert parse(Recipe, {}, "r") == Sft() and Sft().trainable == Lora()


def test_the_second_phase_of_a_correction_keeps_every_setting():
    recipe = TeacherCorrection(temperature=3.0, learning_rate=1e-5, packing=True)
    assert recipe.distillation() == Distill(temperature=3.0, learning_rate=1e-5, packing=True)


@pytest.mark.parametrize("name", named_recipes())
def test_every_named_recipe_is_valid_and_says_what_it_is(name):
    recipe = parse(Recipe, read_recipe(name), name)
    first = named_recipes()[name]
    assert first.endswith(".") and 20 < len(first) < 150
    assert recipe.method.replace("_", "-") in name or name.startswith("distill")


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(InputError, match=r"no recipe of that name; named ones: .*distill.*sft-lora"):
        read_recipe("sft-lara")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(InputError, match="holds a list"):
        read_recipe(str(tmp_path / "list.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(InputError, match="not valid YAML"):
        read_recipe(str(tmp_path / "broken.yaml"))
