"""Each stage as a command, in the order of the pipeline, on a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from regrow.checkpoint import Checkpoint
from regrow.cli import main
from tests.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[1]


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """A folder with a tiny model and files of data, as the working directory."""
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tmp_path / "model")
    rows = [
        {"q": f"What is {i}?", "a": f"The number {i} is a number.", "text": "Rain on grass. " * 8}
        for i in range(9)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "gate.yaml").write_text("min_acceptance_rate: 0\n")
    (tmp_path / "recipe.yaml").write_text("max_steps: 2\nbatch_size: 4\nmax_length: 256\n")
    suite = {"perplexity": {"name": "t", "source": "data.jsonl", "column": "text"}, "window": 64}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    return tmp_path


def run(capfd, *arguments: str, status: int = 0):
    assert main([*arguments, "--json"]) == status
    return json.loads(capfd.readouterr().out)


def test_the_stages_in_a_row(inputs, capfd, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{inputs}/mlflow.db")
    measured = run(capfd, "importance", "model", "--data", "data.jsonl", "--out", "layers")
    assert Path(measured["importance"]).exists()
    pruned = run(
        capfd, "prune", "model", "--blocks", "2", "--importance", "layers/importance.json", "--out", "pruned"
    )
    assert pruned["blocks"] == 4
    assert pruned["dropped"] == [measured["best"]["2"][0], measured["best"]["2"][0] + 2]
    columns = ("--column", "instruction=q", "--column", "reference=a")
    made = run(
        capfd, "distill", "model", "--data", "data.jsonl", *columns, "--max-new-tokens", "8", "--out", "own"
    )
    assert made["records"] == 9
    assert sum(made["decisions"].values()) == 9
    verdict = run(capfd, "validate", "own", "--gate", "gate.yaml", "--model", "model", "--page", "gate.html")
    assert verdict["passed"]
    assert "<html" in Path("gate.html").read_text()
    for seed in ("one", "two"):
        recipe = yaml.safe_load(Path("recipe.yaml").read_text()) | {"seed": len(seed), "learning_rate": 0.01}
        Path(f"{seed}.yaml").write_text(yaml.safe_dump(recipe | {"seed": 1 if seed == "one" else 2}))
        tuned = run(capfd, "tune", "pruned", "--data", "own", "--recipe", f"{seed}.yaml", "--out", seed)
        assert tuned["steps"] == 2
    merged = run(capfd, "merge", "one/checkpoint", "two/checkpoint", "--out", "merged")
    assert 0 <= merged["linear_share"] <= 1
    scored = run(capfd, "evaluate", "model", "merged", "--suite", "suite.yaml")
    assert [model["name"] for model in scored["models"]] == ["model", "merged"]
    done = run(capfd, "register", "merged", "--name", "tiny", "--tag", "team=field")
    assert done["digest"] == Checkpoint.open("merged").digest == run(capfd, "digest", "merged")["digest"]


def test_a_gate_that_is_not_passed_ends_with_3_and_says_what_to_do(inputs, capfd):
    columns = ("--column", "instruction=q", "--column", "reference=a")
    run(capfd, "distill", "model", "--data", "data.jsonl", *columns, "--max-new-tokens", "4", "--out", "own")
    (inputs / "gate.yaml").write_text("min_acceptance_rate: 0.9\n")
    assert main(["validate", "own", "--gate", "gate.yaml"]) == 3
    assert "acceptance rate" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digest", "nowhere"), "nowhere: no such folder"),
        (("prune", "model", "--drop", "4:9", "--out", "x"), "cannot be removed"),
        (("prune", "model", "--drop", "some", "--out", "x"), "expected START:STOP"),
        (("prune", "model", "--blocks", "2", "--out", "x"), "--importance FILE or --data FILE"),
        (("prune", "model", "--blocks", "6", "--data", "data.jsonl", "--out", "x"), "choose 1 to 5"),
        (("prune", "model", "--plan", "data.jsonl", "--out", "x"), "data.jsonl"),
        (("importance", "model", "--data", "nowhere.jsonl", "--out", "x"), "nowhere.jsonl"),
        (("importance", "model", "--data", "data.jsonl", "--text-column", "nil", "--out", "x"), "nil"),
        (
            ("distill", "model", "--data", "data.jsonl", "--column", "reference=a", "--out", "x"),
            "instruction",
        ),
        (("tune", "model", "--data", "suite.yaml", "--out", "x"), "suite.yaml"),
        (("evaluate", "model", "--suite", "gate.yaml"), "unknown key"),
        (("merge", "model", "--out", "x"), "at least two"),
        (("register", "model", "--name", "bad name"), "name"),
        (("run", "nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_bad_input_is_one_line_and_status_2_and_leaves_nothing(inputs, capfd, arguments, message):
    assert main(list(arguments)) == 2
    captured = capfd.readouterr()
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("regrow: ")
    assert message in last
    assert captured.out == ""
    assert not (inputs / "x").exists()


def test_bad_usage_ends_with_2_and_names_the_command(capfd):
    with pytest.raises(SystemExit) as caught:
        main(["prune"])
    assert caught.value.code == 2
    assert "usage: regrow prune" in capfd.readouterr().err


def imported(code: str) -> set[str]:
    report = "import sys; print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_the_domain_imports_neither_the_orchestrator_nor_heavy_libraries_before_they_are_used():
    # The training worker is a process of its own; it may import what it trains with.
    every = (
        "import pkgutil, importlib, regrow\n"
        "for one in pkgutil.walk_packages(regrow.__path__, 'regrow.'): importlib.import_module(one.name)"
    )
    assert not {"zenml", "mlflow", "great_expectations", "lm_eval"} & imported(every)
    heavy = {
        "zenml",
        "mlflow",
        "torch",
        "transformers",
        "datasets",
        "great_expectations",
        "lm_eval",
        "pandas",
    }
    assert not heavy & imported("import regrow.cli, regrow.config, regrow.report, regrow.quality")
