import json

import pytest
import yaml
from pydantic import ValidationError

from regrow.cli import main
from regrow.evaluate import EvaluateSpec, Measures, evaluate_against
from regrow.evaluate.beside import measures_table
from regrow.lineage.store import stored
from regrow.lineage.values import state_speed, value_digest
from tests.evaluate.questions import lively, pruned, suite


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Everything, once: speed starts processes."""
    folder = tmp_path_factory.mktemp("against")
    base = lively(folder / "base")
    models = {"pruned": pruned(base, folder / "a"), "merged": pruned(base, folder / "b", "1:3")}
    spec = suite(
        folder,
        speed={"prompt_tokens": 12, "new_tokens": 3, "batch_sizes": [2], "rounds": 2, "warmup": 0},
        draft={"tokens": [2], "new_tokens": 8, "limit": 2, "rounds": 1},
    )
    return evaluate_against(base, models, spec, folder / "cache", base_name="whole"), models


def test_every_model_is_measured_against_the_unpruned_one(measured):
    found, models = measured
    assert [one.name for one in found.drifts] == [one.name for one in found.drafts] == list(models)
    assert [one.name for one in found.speeds] == ["whole", *models]
    assert [one.model for one in found.drifts] == [one.digest for one in models.values()]
    assert [one.draft for one in found.drafts] == [one.digest for one in models.values()]
    assert Measures.model_validate_json(found.model_dump_json()) == found
    short = found.summary()
    assert set(short) == {"drift", "speed", "draft"}
    assert short["speed"]["pruned"]["batches"]["2"]["decode_speedup"]["value"] > 0


def test_the_tables_have_a_row_for_each(measured):
    found, models = measured
    text = measures_table(found)
    for name in models:
        # drift, health, size, speed, draft
        assert sum(line.startswith(f"| {name} ") for line in text.splitlines()) == 5
    heads = [part.splitlines()[0].split("|")[1].strip() for part in text.split("\n\n")]
    assert heads == ["drift", "answers", "size", "speed", "draft"]


def test_the_command_shows_what_the_suite_asks_for(tmp_path, capfd):
    base = lively(tmp_path / "base")
    small = pruned(base, tmp_path / "small")
    file = tmp_path / "suite.yaml"
    file.write_text(yaml.safe_dump(suite(tmp_path).model_dump(mode="json", exclude_defaults=True)))
    command = ["evaluate", str(base.folder), str(small.folder), "--suite", str(file)]
    command += ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert "| small " in capfd.readouterr().out
    assert main([*command, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["measures"]["drift"]["small"]
    kept = Measures.model_validate_json((tmp_path / "out" / "measures.json").read_text(encoding="utf-8"))
    assert kept.drifts[0].summary() == {"name": "small", **found}
    assert "drift" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    stated = [one.statement for one in stored(tmp_path / "out")]
    drift = next(one for one in stated if one.stage == "drift")
    assert drift.subject.sha256 == value_digest(kept.drifts[0])
    assert [one.sha256 for one in drift.materials] == [base.digest, small.digest]


def test_what_models_cost_is_stated(measured, tmp_path):
    found, models = measured
    spec = EvaluateSpec(speed={"batch_sizes": [2]})
    costs = found.model_copy(update={"drifts": ()})
    stated = state_speed(costs, list(models.values()), spec, tmp_path)
    assert stated.subject.sha256 == value_digest(Measures.model_validate_json(costs.model_dump_json()))
    assert [one.sha256 for one in stated.materials] == [one.digest for one in models.values()]
    assert stated.details["speed"]["pruned"]["batches"]["2"]["decode_speedup"]["value"] > 0


def test_nothing_asked_for_is_nothing_measured(tmp_path):
    base = lively(tmp_path / "base")
    spec = EvaluateSpec(perplexity={"name": "t", "source": "t.jsonl"})
    found = evaluate_against(base, {"m": base}, spec)
    assert found == Measures()
    assert measures_table(found) == ""


def test_sections_are_checked():
    with pytest.raises(ValidationError, match="different numbers of at least 1"):
        EvaluateSpec(speed={"batch_sizes": [1, 1]})
    with pytest.raises(ValidationError, match="different numbers of at least 1"):
        EvaluateSpec(speed={}, draft={"tokens": [0]})
    with pytest.raises(ValidationError, match="nothing to evaluate"):
        EvaluateSpec()
