"""The search over merges, on tiny models whose best merge is known: one of them was trained on the validation text."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.evaluate import EvaluateSpec
from regrow.merge import MergeSpec, merge
from regrow.merge.search import SearchSpec, check_validation, search
from tests.tiny import tiny_checkpoint

TEXT = "The heron stands in the shallow river and waits for a fish to pass below it. " * 4


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Checkpoint, Checkpoint]:
    """Two siblings: one as it was, one trained on the validation text."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("pair")
    plain = tiny_checkpoint(folder / "plain")
    model = AutoModelForCausalLM.from_pretrained(plain.folder)
    ids = torch.tensor([plain.tokenizer()(TEXT)["input_ids"]])
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
    out = plain.copy_to(folder / "trained").folder
    (out / "model.safetensors").unlink()
    model.save_pretrained(out)
    return plain, Checkpoint.open(out)


@pytest.fixture(scope="module")
def validation(tmp_path_factory) -> EvaluateSpec:
    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    file.write_text(json.dumps({"text": TEXT}) + "\n")
    return EvaluateSpec.model_validate({"perplexity": {"name": "texts", "source": str(file)}, "window": 64})


def test_it_finds_the_better_model_and_beats_the_middle(pair, validation, tmp_path):
    spec = SearchSpec(validation=validation, trials=30, anchors=2)
    found = search(pair, MergeSpec(method="slerp"), spec, tmp_path)
    assert len(found.candidates) == 30
    assert found.start.spec.t == (0.5, 0.5) and found.start.number == 0
    assert found.best.value > found.start.value + 0.1
    assert isinstance(found.best.spec.t, tuple) and min(found.best.spec.t) > 0.6
    assert not list(tmp_path.rglob("*.safetensors"))  # only scores stay


def test_a_killed_search_goes_on_and_ends_as_an_unbroken_one(pair, validation, tmp_path):
    spec = SearchSpec(validation=validation, trials=11, anchors=2)
    whole = search(pair, MergeSpec(), spec, tmp_path / "whole")
    heard = []

    def stop(candidate):
        heard.append(candidate.number)
        if len(heard) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(pair, MergeSpec(), spec, tmp_path / "killed", listener=stop)
    again = search(
        pair, MergeSpec(), spec, tmp_path / "killed", listener=lambda one: heard.append(one.number)
    )
    assert heard == [0, 1, 2, 3, 4, *range(4, 11)]  # the fourth was scored, but not kept, when it was killed
    assert [(one.spec, one.value) for one in again.candidates] == [
        (one.spec, one.value) for one in whole.candidates
    ]
    longer = search(pair, MergeSpec(), spec.model_copy(update={"trials": 14}), tmp_path / "killed")
    assert [one.value for one in longer.candidates[:11]] == [one.value for one in whole.candidates]


def test_weights_and_density_of_task_vectors_are_searched(pair, validation, tmp_path):
    parent = tiny_checkpoint(tmp_path / "parent")
    assert parent.digest == pair[0].digest  # the untrained sibling is the parent
    start = MergeSpec(method="ties", density=0.5)
    spec = SearchSpec(validation=validation, trials=9, anchors=1)
    found = search(pair, start, spec, tmp_path / "work", base=parent)
    tried = [one.spec for one in found.candidates]
    assert len({one.density for one in tried}) > 5 and len({one.weights for one in tried}) > 5
    assert all(0.05 <= float(one.density) <= 1 for one in tried)
    assert all(0 <= weight <= 1 for one in tried for weight in one.weights)


def test_one_number_is_no_search(pair, validation, tmp_path):
    with pytest.raises(InputError, match="more anchors"):
        search(pair, MergeSpec(), SearchSpec(validation=validation, anchors=1), tmp_path)
    with pytest.raises(InputError, match="use two"):
        search([*pair, pair[0]], MergeSpec(), SearchSpec(validation=validation), tmp_path)


def arc(folder: Path, name: str, split: str | None, first: int) -> EvaluateSpec:
    rows = [
        {
            "id": str(i),
            "question": f"What is number {i} in the row of stones?",
            "choices": {"text": ["a pebble", "a rock"], "label": ["A", "B"]},
            "answerKey": "A",
        }
        for i in range(first, first + 4)
    ]
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return EvaluateSpec.model_validate({"tasks": [{"name": "arc_easy", "source": str(file), "split": split}]})


def test_the_final_test_split_is_out_of_bounds(tmp_path):
    with pytest.raises(InputError, match=r"arc_easy\.split is test; a search looks at validation"):
        check_validation(arc(tmp_path, "a", "test", 0), None)
    with pytest.raises(InputError, match="split is not given"):
        check_validation(arc(tmp_path, "b", None, 0), None)
    validation, final = arc(tmp_path, "c", "validation", 0), arc(tmp_path, "d", "test", 3)
    with pytest.raises(InputError, match="also in the final evaluation"):
        check_validation(validation, final)
    check_validation(validation, arc(tmp_path, "e", "test", 4))


def test_the_command_writes_the_best_merge_and_says_what_it_is(pair, validation, tmp_path):
    suite = tmp_path / "suite.yaml"
    suite.write_text(yaml.safe_dump(validation.model_dump(mode="json")))
    command = [sys.executable, "-m", "regrow.cli", "merge", *(str(one.folder) for one in pair), "--json"]
    command += ["--search", str(suite), "--trials", "4", "--anchors", "2", "--out", str(tmp_path / "merged")]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert said["candidates"] == 4 and said["best_value"] >= said["start_value"]
    by_hand = merge(pair, MergeSpec.model_validate(said["best"]), tmp_path / "by-hand").checkpoint
    weights = "model.safetensors"
    assert (tmp_path / "merged" / weights).read_bytes() == (by_hand.folder / weights).read_bytes()


def test_every_candidate_is_a_run_in_mlflow(pair, validation, tmp_path, monkeypatch):
    import mlflow

    from regrow.merge.tracking import MlflowRecord

    monkeypatch.chdir(tmp_path)  # a database has its artifacts beside it
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    try:
        spec = SearchSpec(validation=validation, trials=4, anchors=2)
        record = MlflowRecord(tmp_path, "search", {"method": "slerp"})
        found = search(pair, MergeSpec(), spec, tmp_path / "work", listener=record)
        record.finish(found)
        assert MlflowRecord(tmp_path, "search", {}).run_id == record.run_id
        client = mlflow.MlflowClient()
        parent = client.get_run(record.run_id)
        children = client.search_runs(
            [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{record.run_id}'"
        )
        values = {run.info.run_name: run.data.metrics["value"] for run in children}
        assert values == {f"candidate-{one.number}": pytest.approx(one.value) for one in found.candidates}
        assert {run.data.tags["regrow.digest"] for run in children} == {
            one.scores.digest for one in found.candidates
        }
        course = client.get_metric_history(record.run_id, "best")
        assert [one.value for one in sorted(course, key=lambda one: one.step)][-1] == pytest.approx(
            found.best.value
        )
    finally:
        mlflow.set_tracking_uri(before)
