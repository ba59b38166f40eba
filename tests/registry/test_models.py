"""`regrow models`: two registered versions, as a user sees them."""

import json
import shutil

import pytest

from regrow.checkpoint import Checkpoint
from regrow.cli import main
from regrow.evaluate.scores import Scores, TaskScore
from regrow.registry import LicenceChain, RegistrySpec, register
from tests.registry.stored import store
from tests.tiny import tiny_checkpoint

ITEMS = ([1.0] * 30 + [0.0] * 30, [1.0] * 45 + [0.0] * 15)


def scores(checkpoint: Checkpoint, items: list[float]) -> Scores:
    value = sum(items) / len(items)
    task = TaskScore(
        metric="acc", value=value, stderr=0.06, samples=len(items), items=tuple(items), questions="q"
    )
    return Scores(
        name="merged",
        digest=checkpoint.digest,
        parameters=checkpoint.parameters,
        flops_per_token=1000,
        perplexity=12.5 + value,
        perplexity_tokens=100,
        scores={"sciq": task},
        settings={"seed": 0},
        seconds=1.0,
    )


def plan(first: int) -> dict:
    kept = [i for i in range(6) if i not in (first, first + 1)]
    return {"source_digest": "a" * 64, "depth": 6, "blocks": kept, "criterion": "angular_distance"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory, empty_database):
    """A registry with two versions that differ in everything, and a third that regrow did not make."""
    import mlflow

    folder = tmp_path_factory.mktemp("registry")
    shutil.copyfile(empty_database, folder / "mlflow.db")
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    experiment = mlflow.MlflowClient().create_experiment("regrow", artifact_location=str(folder / "runs"))
    assert experiment
    for seed in (0, 1):
        made = tiny_checkpoint(folder / str(seed), seed=seed)
        (made.folder / "plan.json").write_text(json.dumps(plan(2 + seed)))
        model = Checkpoint.open(made.folder)
        register(
            model,
            RegistrySpec(name="small"),
            tags={
                "regrow.base": "a" * 64,
                "regrow.plan": f"{seed}" * 64,
                "regrow.config": f"{seed + 2}" * 64,
                "regrow.data.plants": "d" * 64,
                **({"regrow.data.water": "e" * 64} if seed else {}),
                "regrow.environment": f"{seed + 4}" * 64,
                "regrow.commit": "f" * 40,
            },
            metrics={"recovery": 0.8 + seed / 10},
            stored=str(store(model, folder / "store" / str(seed))),
            licences=LicenceChain.of(
                "Apache-2.0", {"plants": "CC-BY-4.0"} | ({"water": None} if seed else {})
            ),
            documents={
                "scores": scores(model, ITEMS[seed]),
                "config": {
                    "tune": {"learning_rate": 1e-4 * (seed + 1), "epochs": 1},
                    "datasets": [{"name": "plants"}],
                },
                "environment": {"torch": f"2.1{seed}", "mlflow": "3.17.2"},
            },
        )
    mlflow.MlflowClient().set_registered_model_alias("small", "champion", "1")
    mlflow.MlflowClient().create_registered_model("foreign")
    mlflow.MlflowClient().create_model_version("foreign", str(folder / "0"))
    yield folder
    mlflow.set_tracking_uri(before)


def run(capfd, *arguments: str) -> tuple[int, str, str]:
    status = main(["models", *arguments])
    out, err = capfd.readouterr()
    return status, out, err


def test_list_has_a_line_for_each_version(registry, capfd):
    status, out, _ = run(capfd, "list")
    lines = [line for line in out.splitlines() if line.startswith("| ")][1:]
    assert status == 0
    assert [line.split("|")[1].strip() for line in lines if "---" not in line] == [
        "foreign/1",
        "small/2",
        "small/1",
    ]
    assert "not by regrow" in out and "champion" in out and "0.9" in out
    _, out, _ = run(capfd, "list", "small", "--json")
    found = json.loads(out)["versions"]
    assert [(one["number"], one["aliases"], one["licence"]) for one in found] == [
        (2, ["challenger"], "unknown"),
        (1, ["champion"], "Apache-2.0 AND CC-BY-4.0"),
    ]


def test_show_tells_the_facts_and_the_licences(registry, capfd):
    status, out, _ = run(capfd, "show", "small@challenger")
    assert status == 0
    assert "small/2" in out and "e" * 64 in out
    assert "Licence unknown of: water." in out
    _, out, _ = run(capfd, "show", "models:/small/1", "--json")
    found = json.loads(out)
    assert found["tags"]["regrow.commit"] == "f" * 40
    assert found["metrics"] == {"recovery": 0.8}


def test_diff_tells_what_differs_in_each_part(registry, capfd):
    status, out, _ = run(capfd, "diff", "small@champion", "small@challenger", "--json")
    assert status == 0
    found = json.loads(out)
    parts = {part["name"]: part for part in found["parts"]}
    changes = {
        name: {one["key"]: (one["a"], one["b"]) for one in part["changes"]} for name, part in parts.items()
    }
    assert not found["same"]
    assert list(parts) == ["model", "plan", "data", "recipe", "scores", "environment", "code", "licence"]
    assert list(changes["model"]) == ["regrow.digest"]
    assert changes["plan"]["removed_blocks"] == ("2:4", "3:5")
    assert changes["data"] == {"water": (None, "e" * 64)}
    assert changes["recipe"] == {"tune.learning_rate": (1e-4, 2e-4)}
    assert changes["scores"] == {"perplexity": (13.0, 13.25), "recovery": (0.8, 0.9), "sciq": (0.5, 0.75)}
    assert changes["environment"] == {"torch": ("2.10", "2.11")}
    assert parts["code"]["result"] == "same"
    assert changes["licence"]["data water"] == (None, "unknown")
    assert "better" in parts["scores"]["note"].lower()


def test_diff_as_a_table_says_first_in_what(registry, capfd):
    _, out, _ = run(capfd, "diff", "small/1", "small/2")
    first, differ, same, *_ = out.splitlines()
    assert first == "small/1 and small/2"
    assert differ == "differ in: model, plan, data, recipe, scores, environment, licence"
    assert same == "are the same in: code"
    assert "| 2:4" in out
    _, out, _ = run(capfd, "diff", "small/1", "small/1", "--json")
    assert json.loads(out)["same"]


def test_diff_says_what_a_version_of_another_maker_does_not_tell(registry, capfd):
    status, out, _ = run(capfd, "diff", "foreign/1", "small/1", "--json")
    assert status == 0
    parts = {part["name"]: part for part in json.loads(out)["parts"]}
    assert parts["data"]["result"] == "unknown"
    assert parts["data"]["note"] == "the first version does not say"
    assert "foreign/1" in parts["recipe"]["note"]


def test_compare_gives_the_difference_its_interval_and_p(registry, capfd):
    status, out, _ = run(capfd, "compare", "small@champion", "small@challenger", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["difference"] == 0.25
    assert 0 < found["low"] < 0.25 < found["high"]
    assert found["p"] < 0.01
    assert (found["name"], found["base"]) == ("small/2", "small/1")
    _, out, _ = run(capfd, "compare", "small/1", "small/2")
    assert "difference to small/1" in out and "+25.0" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "small"], "small: not a version; write NAME/VERSION or NAME@alias"),
        (["show", "small/9"], "small/9: no such version; small has 1, 2"),
        (["show", "small@best"], "small@best: no such alias; small has challenger, champion"),
        (["show", "large/1"], "large: no such registered model"),
        (["list", "large"], "it has foreign, small"),
        (["compare", "foreign/1", "small/1"], "foreign/1: its run holds no scores by item"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(registry, capfd, arguments, message):
    status, out, err = run(capfd, *arguments)
    assert status == 2 and out == ""
    assert message in err.strip().splitlines()[-1]
