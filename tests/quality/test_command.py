"""`regrow validate`."""

import json

import pytest
import yaml

from regrow.cli import main
from regrow.quality import GateResult
from regrow.selfdata import SelfData
from tests.quality.rows import LONG, rows, saved

DOCUMENTS = {"gate.json", "gate.html", "data_docs.html", "quarantine.jsonl"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a set of which one row is bad and one an evaluation item."""
    monkeypatch.chdir(tmp_path)
    saved(tmp_path, rows({5: {"response": "It is sweet."}, 9: {"instruction": LONG}}))
    (tmp_path / "gate.yaml").write_text("on_fail: quarantine\n")
    item = {
        "id": "1",
        "question": LONG,
        "choices": {"text": ["yes", "no", "maybe", "never"], "label": ["A", "B", "C", "D"]},
        "answerKey": "A",
    }
    (tmp_path / "items.jsonl").write_text(json.dumps(item) + "\n")
    tasks = [{"name": "arc_easy", "source": "items.jsonl"}]
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"tasks": tasks}))
    return tmp_path


def run(capfd, *arguments):
    status = main(["validate", "data", *arguments, "--json"])
    return status, json.loads(capfd.readouterr().out)


def test_stop_leaves_the_documents_only(folder, capfd):
    status, verdict = run(capfd, "--out", "out")
    assert status == verdict["exit_status"] == 3
    assert {file.name for file in (folder / "out").iterdir()} == DOCUMENTS
    written = GateResult.model_validate_json((folder / "out/gate.json").read_text())
    assert written.digest == verdict["digest"]
    assert not written.passed


def test_quarantine_leaves_the_accepted_set_too(folder, capfd):
    status, verdict = run(capfd, "--gate", "gate.yaml", "--suite", "suite.yaml", "--out", "out")
    assert status == 0
    assert {file.name for file in (folder / "out").iterdir()} == {
        *DOCUMENTS,
        "provenance",
        "records.parquet",
        "summary.json",
    }
    accepted = SelfData.open(folder / "out")
    assert accepted.digest == verdict["digest"]
    assert [int(row["id"], 16) for row in accepted.rows()] == [0, 1, 2, 3, 4, 6, 7, 8, 10, 11]
    assert verdict["removed_by"] == {"final answer": 1, "contamination": 1}


def test_a_folder_that_is_there_is_left_alone(folder, capfd):
    before = sorted(file.name for file in (folder / "data").iterdir())
    assert main(["validate", "data", "--out", "data"]) == 2
    assert "data: already exists" in capfd.readouterr().err
    assert sorted(file.name for file in (folder / "data").iterdir()) == before


def test_without_a_folder_nothing_is_written(folder, capfd):
    before = sorted(file.name for file in folder.iterdir())
    assert main(["validate", "data"]) == 3
    said = capfd.readouterr().out
    assert "final answer" in said
    assert "quarantine.jsonl" not in said, "it names no file that is gone"
    assert sorted(file.name for file in folder.iterdir()) == before
