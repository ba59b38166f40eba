"""`regrow evaluate` as a user calls it, on tiny models."""

import json
from pathlib import Path

import pytest
import yaml

from regrow.checkpoint import Checkpoint
from regrow.cli import main
from regrow.commands.evaluate import unique_names
from regrow.evaluate import Scores
from tests.evaluate.sets import ARC, WINOGRANDE, write
from tests.tiny import tiny_checkpoint


@pytest.fixture
def place(tmp_path: Path, monkeypatch) -> Path:
    """Two models with the same folder name, a third one, a suite and a mapping, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REGROW_CACHE", str(tmp_path / "cache"))
    for name, seed in (("one/model", 0), ("two/model", 1), ("third", 2)):
        tiny_checkpoint(tmp_path / name, seed=seed)
    write(tmp_path / "text.jsonl", [{"text": f"Sentence {i} on rivers and hills."} for i in range(6)])
    write(tmp_path / "arc.jsonl", ARC)
    write(tmp_path / "wino.jsonl", WINOGRANDE)
    sums = [{"question": f"{i} and {i}?", "answer": f"It is {2 * i}.\n#### {2 * i}"} for i in range(6)]
    write(tmp_path / "gsm.jsonl", sums)
    suite = {
        "tasks": [{"name": "arc_easy"}, {"name": "winogrande"}, {"name": "gsm8k", "num_fewshot": 1}],
        "perplexity": {"name": "text", "source": "text.jsonl"},
        "window": 32,
        "batch_size": 4,
    }
    sources = {
        "arc_easy": {"source": "arc.jsonl"},
        "winogrande": {"source": "wino.jsonl"},
        "gsm8k": {"source": "gsm.jsonl", "held_out": 3},
    }
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    (tmp_path / "sources.yaml").write_text(yaml.safe_dump(sources))
    return tmp_path


COMMAND = (
    "evaluate",
    "one/model",
    "two/model",
    "third",
    "--suite",
    "suite.yaml",
    "--sources",
    "sources.yaml",
)


def test_models_are_scored_alike_and_compared_with_the_first(place: Path, capfd):
    assert (
        main([*COMMAND, "--tasks", "arc_easy,gsm8k", "--dtype", "float32", "--out", "found", "--json"]) == 0
    )
    printed = json.loads(capfd.readouterr().out)
    assert [one["name"] for one in printed["models"]] == ["one/model", "two/model", "third"]
    assert [one["name"] for one in printed["comparisons"]] == ["two/model", "third"]
    assert printed["settings"]["batch_size"] == 4
    assert printed["settings"]["dtype"] == "float32"
    # Both ways to read GSM8K's answers are there.
    own = printed["models"][0]["scores"]["gsm8k"]
    assert own["metric"] == "exact_match,strict-match"
    assert set(own["others"]) == {"exact_match,flexible-extract"}
    for one in printed["comparisons"]:
        assert one["base"] == "one/model"
        assert [task["task"] for task in one["tasks"]] == ["arc_easy", "gsm8k"]
        assert one["samples"] == 6 + 3
        assert one["p_holm"] >= one["p"]
        assert "no difference that 9 items can see" in one["verdict"] or one["result"] in ("better", "worse")
    scores = [Scores.model_validate(one) for one in json.loads(Path("found/scores.json").read_text())]
    assert [one.digest for one in scores] == [Checkpoint.open(name).digest for name in COMMAND[1:4]]
    assert all(one.settings == scores[0].settings for one in scores)
    assert len(scores[0].scores["arc_easy"].items) == 6
    assert json.loads(Path("found/comparison.json").read_text()) == printed["comparisons"]
    table = Path("found/table.md").read_text()
    for part in (
        "| task ",
        "one/model",
        "(exact_match,flexible-extract)",
        "| mean ",
        "perplexity",
        "recovery",
        "McNemar p",
        "Holm",
        "third: ",
    ):
        assert part in table, part
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert all(line.count("|") == lines[0].count("|") for line in lines[: lines.index(lines[1]) + 3])


def test_a_second_call_computes_nothing(place: Path, capfd, monkeypatch):
    arguments = [*COMMAND, "--limit", "2", "--json"]
    assert main(arguments) == 0
    first = capfd.readouterr().out
    assert list((place / "cache" / "evaluation").rglob("*.samples.jsonl"))
    monkeypatch.setattr(Checkpoint, "load", lambda *_, **__: pytest.fail("a model was loaded again"))
    assert main(arguments) == 0
    assert capfd.readouterr().out == first
    with pytest.raises(pytest.fail.Exception):
        main([*arguments, "--no-cache"])
    with pytest.raises(pytest.fail.Exception):
        main([*arguments, "--cache", "elsewhere"])


def test_one_model_alone_has_a_table_without_comparison(place: Path, capfd):
    assert (
        main(
            [
                "evaluate",
                "third",
                "--suite",
                "suite.yaml",
                "--sources",
                "sources.yaml",
                "--tasks",
                "winogrande",
            ]
        )
        == 0
    )
    printed = capfd.readouterr().out
    assert "winogrande" in printed
    assert "third" in printed
    assert "recovery" not in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--tasks", "mmlu"), "has no task mmlu; it has arc_easy, winogrande, gsm8k"),
        (("--limit", "0"), "--limit 0: must be at least 1"),
        (("--batch-size", "0"), "batch_size"),
        (("--suite", "unheard"), "neither a file nor one of openllm-v1, quick"),
        (("--sources", "suite.yaml"), "is no task of the suite"),
    ],
)
def test_mistakes_are_named(place: Path, capfd, more, message: str):
    assert main([*COMMAND, *more]) == 2
    assert message in capfd.readouterr().err


def test_names_tell_folders_apart():
    assert unique_names([Path("/a/base"), Path("/b/tuned")]) == ["base", "tuned"]
    assert unique_names([Path("/a/x/final"), Path("/a/y/final"), Path("/c")]) == ["x/final", "y/final", "c"]
    assert unique_names([Path("/a/x"), Path("/a/x")]) == ["x", "x (2)"]
    assert unique_names([Path("/m"), Path("/a/m")]) == ["/m", "a/m"]
