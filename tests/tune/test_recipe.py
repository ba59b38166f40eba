import pytest
from pydantic import ValidationError

from regrow.tune import LoraSpec, Recipe


@pytest.mark.parametrize(
    "bad",
    [
        {"learning_rte": 1e-3}, {"learning_rate": 0}, {"epochs": -1}, {"batch_size": 0}, {"method": "dpo"},
        {"lora": {"r": 0}}, {"lora": {"rank": 8}}, {"lora": {"target_modules": []}},
        {"lora": {"dropout": 1.0}},
        {"max_steps": 0}, {"warmup_ratio": 1.0}, {"responses": "both"},
    ],
)  # fmt: skip
def test_impossible_values_are_refused(bad):
    with pytest.raises(ValidationError):
        Recipe.model_validate(bad)


def test_a_recipe_is_a_value():
    recipe = Recipe(lora=LoraSpec(r=8, target_modules=["q_proj"]))
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
