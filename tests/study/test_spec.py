from pathlib import Path

import pytest
import yaml

from regrow.config import read_config
from regrow.errors import InputError
from regrow.parsing import parse
from regrow.study import StudyConfig
from regrow.tune.recipe import needs_teacher

CONFIGS = Path(__file__).parents[2] / "configs"
STUDIES = sorted(CONFIGS.glob("study-*.yaml"))


def smollm2(**changes) -> StudyConfig:
    whole = yaml.safe_load((CONFIGS / "study-smollm2.yaml").read_text())
    return parse(StudyConfig, whole["parameters"] | changes, "study")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_bundled_studies_are_valid_and_train_on_nothing_that_they_evaluate(path):
    config, _ = read_config(path, StudyConfig)
    looked_at = {task.source or task.name for task in config.evaluation.tasks}
    if config.evaluation.answers:
        looked_at.add(config.evaluation.answers.prompts.source)
    assert len(looked_at) >= 2
    assert not looked_at & {dataset.source for dataset in config.datasets}
    assert config.reference is None or config.reference == config.compared_with


def test_cells_are_the_product_and_untuned_arms_have_one_cell_a_block_size():
    config = smollm2(records=[50, None])
    cells = [cell for cell, _ in config.cells()]
    assert len(cells) == len({cell.key for cell in cells}) == 3 * (1 + 2 * 3 * 4)
    untuned = [cell for cell in cells if cell.arm == "none"]
    assert [cell.blocks for cell in untuned] == [3, 6, 9]
    assert {(cell.records, cell.seed) for cell in untuned} == {(None, None)}


def test_arms_differ_in_what_they_change_and_nothing_else():
    config = smollm2()
    arms = {arm.name: arm for arm in config.arms}
    recipes = {name: config.recipe(arm, 7) for name, arm in arms.items() if arm.tune is not None}
    assert {recipe.seed for recipe in recipes.values()} == {7}
    assert recipes["SFT"].responses == "reference" and recipes["self-data"].responses == "self"
    sft, own = (recipes[name].model_dump(exclude={"responses"}) for name in ("SFT", "self-data"))
    assert sft == own
    assert needs_teacher(recipes["distillation"]) and not needs_teacher(recipes["self-data"])
    assert config.compared_with == "SFT"


def test_models_that_are_merged_share_the_budget():
    config = smollm2()
    merged = next(arm for arm in config.arms if arm.data == "each")
    assert config.recipe(merged, 0, share=0.5).max_tokens * 2 == config.recipe(merged, 0).max_tokens
    by_epochs = smollm2(tune={"epochs": 2})
    assert by_epochs.recipe(merged, 0, share=0.5) == by_epochs.recipe(merged, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1, 1]}, "1 is listed twice"),
        ({"blocks": [0]}, "at least 1"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "a is listed twice"),
        ({"arms": [{"name": "a b"}, {"name": "a, b"}]}, "a_b is listed twice"),
        ({"arms": [{"name": "a/b"}]}, "arms.0.name"),
        ({"arms": [{"name": "a", "data": "each"}]}, "data: each merges tuned models"),
        ({"arms": [{"name": "a", "tune": {"learnin_rate": 1}}]}, "arms.a.tune.learnin_rate: unknown key"),
        ({"arms": [{"name": "a", "tune": {"trainable": {"kind": "prefix"}}}]}, "leaves no checkpoint"),
        ({"reference": "b"}, "reference 'b' is no arm"),
        ({"criterion": "perplexity"}, "not measured"),
    ],
)
def test_what_cannot_run_is_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        smollm2(**changes)
