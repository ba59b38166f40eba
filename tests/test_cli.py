"""Each stage as a command, in the order of the pipeline, on a tiny model."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from regrow.checkpoint import Checkpoint
from regrow.cli import main
from regrow.lineage.store import stored
from regrow.lineage.values import value_digest
from regrow.selfdata import Shift
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
    (tmp_path / "list.yaml").write_text("- min_records\n")
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
    start = measured["best"]["2"][0]
    assert pruned["removed_blocks"] == f"{start}:{start + 2}"
    assert "<html" in Path(measured["page"]).read_text()
    assert not Path("layers/.partial").exists()
    columns = ("--column", "instruction=q", "--column", "reference=a")
    made = run(
        capfd, "distill", "model", "--data", "data.jsonl", *columns, "--max-new-tokens", "8", "--out", "own"
    )
    assert made["records"] == 9
    assert sum(made["decisions"].values()) == 9
    Path("shift.yaml").write_text("{encoder: null}")
    moved = run(capfd, "shift", "own", "--model", "model", "--settings", "shift.yaml", "--out", "moved")
    assert moved["records"] == made["decisions"].get("rewritten", 0)
    assert {path.name for path in Path("moved").iterdir()} == {"shift.json", "shift.html", "provenance"}
    stated = next(iter(stored(Path("moved")))).statement
    assert {one.name: one.sha256 for one in stated.materials}["dataset"] == made["digest"]
    assert stated.subject.sha256 == value_digest(
        Shift.model_validate_json(Path("moved/shift.json").read_text())
    )
    Path("distill.yaml").write_text("{shard_size: 4, max_new_tokens: 9}")
    exported = ("--export", "own.csv", "--family", "text")
    Path("hurt.jsonl").write_text(Path("data.jsonl").read_text() + "{not json\n")
    assert main(["distill", "model", "--data", "hurt.jsonl", *columns, "--out", "never"]) == 2
    assert "hurt.jsonl:10" in capfd.readouterr().err
    hurt = ("--data", "hurt.jsonl", "--skip-malformed", "--max-new-tokens", "2")
    skipped = run(capfd, "distill", "model", *hurt, *columns, *exported, "--out", "skipped")
    assert (skipped["read"]["records"], skipped["read"]["malformed"]) == (9, 1)
    alone = run(capfd, "validate", "own.csv", "--family", "text", "--gate", "gate.yaml")
    assert alone["digest"] == skipped["digest"]
    tries = ("--attempts", "2", "--max-new-tokens", "8", "--settings", "distill.yaml")
    again = run(capfd, "distill", "model", "--data", "data.jsonl", *columns, *tries, "--out", "tried")
    assert (again["shards"], again["spec"]["max_new_tokens"], again["spec"]["temperature"]) == (3, 8, 0.7)
    assert len(again["acceptance_by_attempt"]) == 2
    verdict = run(capfd, "validate", "own", "--gate", "gate.yaml", "--model", "model", "--page", "gate.html")
    assert verdict["passed"]
    assert "<html" in Path("gate.html").read_text()
    tuned = run(capfd, "tune", "pruned", "--data", "own", "--recipe", "recipe.yaml", "--out", "one")
    assert (tuned["method"], tuned["steps"]) == ("sft", 2)
    taught = ("--recipe", "distill-top-k", "--teacher", "model", "--work", "unfinished")
    tuned = run(capfd, "tune", "pruned", "--data", "own", *taught, "--out", "two")
    assert (tuned["method"], tuned["steps"], tuned["teacher"]) == ("distill", 2, measured["model"])
    assert main(["tune", "pruned", "--data", "own", "--recipe", "sft-lara", "--out", "never"]) == 2
    assert "named ones: continual, distill" in capfd.readouterr().err
    fused = run(capfd, "fuse", "pruned", "--adapter", "one/adapter", "--out", "fused")
    weights = "model.safetensors"
    assert Path("fused", weights).read_bytes() == Path("one/checkpoint", weights).read_bytes()
    assert fused["blocks"] == 4
    assert main(["fuse", "model", "--adapter", "one/adapter", "--out", "never"]) == 2
    assert "this adapter was trained on the model sha256:" in capfd.readouterr().err
    merged = run(capfd, "merge", "one/checkpoint", "two/checkpoint", "--out", "merged")
    assert 0 <= merged["linear_share"] <= 1
    scored = run(capfd, "evaluate", "model", "merged", "--suite", "suite.yaml", "--cache", "kept")
    assert [model["name"] for model in scored["models"]] == ["model", "merged"]
    done = run(capfd, "register", "merged", "--name", "tiny", "--tag", "team=field")
    assert done["digest"] == Checkpoint.open("merged").digest == run(capfd, "digest", "merged")["digest"]


def test_a_program_that_calls_main_keeps_its_log(inputs, capfd):
    logger = logging.getLogger("regrow")
    before = logger.level, logger.propagate, list(logger.handlers)
    assert main(["digest", "model"]) == 0
    assert main(["digest", "nowhere"]) == 2
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


def test_every_way_to_say_how_much_makes_a_plan(inputs, capfd):
    run(capfd, "importance", "model", "--data", "data.jsonl", "--all-tokens", "--out", "layers")
    chosen = ("--importance", "layers/importance.json", "--dry-run", "--out", "plan.json")
    for how in (
        ("--drop", "1:3"),
        ("--to-ratio", "0.8"),
        ("--to-params", "60K", "--by", "neurons"),
        ("--neurons", "32", "--groups", "1"),
        ("--blocks", "2", "--criterion", "angular_distance_all_tokens"),
    ):
        planned = run(capfd, "prune", "model", *how, *chosen)
        made = run(capfd, "prune", "model", "--plan", "plan.json", "--out", f"pruned{''.join(how)}")
        assert made["removed_blocks"] == planned["removed_blocks"]
        assert made["share_of_parameters"] < 1


def test_criteria_are_compared_by_what_they_do(inputs, capfd):
    settings = {"search": {"criteria": ["perplexity", "greedy"], "sizes": [1, 2]}, "max_tokens": 64}
    Path("settings.yaml").write_text(yaml.safe_dump(settings))
    run(
        capfd, "importance", "model", "--data", "data.jsonl", "--settings", "settings.yaml", "--out", "layers"
    )
    command = ("compare", "model", "--importance", "layers/importance.json", "--suite", "suite.yaml")
    criteria = "angular_distance,block_influence,perplexity,greedy,reverse,random"
    arguments = (
        *command,
        "--blocks",
        "1,2",
        "--criteria",
        criteria,
        "--widths",
        "neurons,width",
        "--out",
        "c",
    )
    result = run(capfd, *arguments)
    assert len(result["rows"]) == 16
    assert result["base"]["perplexity"] > 1
    by_choice = {(row["size"], row["choice"]): row for row in result["rows"]}
    # Measured on the very text of the suite, the run of least perplexity has the least perplexity of all runs.
    least = by_choice[2, "perplexity"]["perplexity"]
    assert least <= by_choice[2, "angular_distance"]["perplexity"] * 1.01
    assert least <= by_choice[2, "reverse"]["perplexity"] * 1.01
    for row in result["rows"]:
        assert row["parameters"] < result["base"]["parameters"]
    table = Path("c/comparison.md").read_text()
    assert table.count("\n") == 19
    assert run(capfd, *arguments) == result, "from the cache"


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
        (("prune", "model", "--drop", "4:9", "--out", "x"), "no block 8"),
        (("prune", "model", "--drop", "some", "--out", "x"), "write START:STOP"),
        (("prune", "model", "--out", "x"), "nothing says what to remove"),
        (("prune", "model", "--blocks", "2"), "--out"),
        (("prune", "model", "--blocks", "2", "--out", "x"), "--importance FILE or --data FILE"),
        (("prune", "model", "--to-params", "lots", "--out", "x"), "write it as 6.7B"),
        (("prune", "model", "--blocks", "2", "--criterion", "magic", "--out", "x"), "criterion"),
        (("prune", "model", "--blocks", "6", "--data", "data.jsonl", "--out", "x"), "choose 1 to 5"),
        (("prune", "model", "--plan", "data.jsonl", "--out", "x"), "data.jsonl"),
        (("importance", "model", "--data", "nowhere.jsonl", "--out", "x"), "nowhere.jsonl"),
        (("importance", "model", "--data", "data.jsonl", "--text-column", "nil", "--out", "x"), "nil"),
        (
            ("distill", "model", "--data", "data.jsonl", "--column", "reference=a", "--out", "x"),
            "instruction",
        ),
        (
            ("distill", "model", "--data", "data.jsonl", "--engine", "endpoint", "--out", "x"),
            "--url and --served-model",
        ),
        (
            ("distill", "model", "--data", "data.jsonl", "--settings", "list.yaml", "--out", "x"),
            "holds a list",
        ),
        (("tune", "model", "--data", "suite.yaml", "--out", "x"), "suite.yaml"),
        (("evaluate", "model", "--suite", "gate.yaml"), "unknown key"),
        (("merge", "model", "--out", "x"), "at least two"),
        (
            (
                "compare",
                "model",
                "--importance",
                "i",
                "--suite",
                "s",
                "--blocks",
                "2",
                "--criteria",
                "magic",
                "--out",
                "x",
            ),
            "unknown 'magic'; choose among angular_distance",
        ),
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
