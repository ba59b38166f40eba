"""Stacks in ZenML's own store: registered, brought up to date, refused and checked."""

import json
import textwrap

import pytest

from infra.stacks.schema import load
from tests.infra.test_stack_files import NEEDED
from tests.pipelines.project import Project

VALUES = NEEDED | {
    "artifact_store": {"path": "s3://bucket/zenml", "authentication_secret": "regrow-s3"},
    "images": {name: f"10.0.0.1:5000/regrow-{name}@sha256:{name}" for name in ("base", "tune")},
    "environment": {"AWS_DEFAULT_REGION": "here"},
}
# Runs in a checkout and a HOME of its own; every `note` is one line of JSON for the tests below.
PROGRAM = """
import copy, json
from pathlib import Path
from infra.local.stack import register_local_stack, stack_name, use_root
use_root(Path.cwd())
from zenml.client import Client
from zenml.enums import StackComponentType as Kind
from infra.stacks.check import check
from infra.stacks.register import component, find, kept_values, up
from infra.stacks.schema import load
from infra.stacks.values import combine
from regrow.errors import InputError

VALUES = json.loads(Path("values.json").read_text())
client, noted = Client(), {}

def raised(name, values=None):
    try:
        changes = up(load(name), values and combine([("values.json", values)]))
        return {"done": {f"{one.kind} {one.name}": one.done for one in changes}}
    except InputError as error:
        return {"refused": str(error)}

def note(what, found):
    noted[what] = found

note("nothing yet", raised("kubernetes"))
note("no secrets", raised("kubernetes", VALUES))
note("nothing registered", find("kubernetes") is None and component(Kind.ARTIFACT_STORE, "regrow-kubernetes") is None)
client.create_secret("regrow-s3", values={"aws_access_key_id": "a"})
client.create_secret("regrow-mlflow", values={"username": "u", "password": "p"})
note("half a secret", raised("kubernetes", VALUES))
client.update_secret("regrow-s3", add_or_update_values={"aws_secret_access_key": "b"})
client.create_secret("hub", values={"HF_TOKEN": "hf"})
note("first", raised("kubernetes", VALUES))
stack = find("kubernetes")
note("of the stack", {
    "components": {kind.value: [one.name for one in ones] for kind, ones in stack.components.items()},
    "environment": stack.environment, "images": kept_values(stack).images,
})
note("tracker", component(Kind.EXPERIMENT_TRACKER, "regrow-kubernetes").configuration)
note("again", raised("kubernetes", VALUES))
note("without values", raised("kubernetes"))
changed = copy.deepcopy(VALUES)
changed["artifact_store"]["path"] = "s3://other/zenml"
changed["orchestrator"]["max_parallelism"] = 3
note("changed", raised("kubernetes", changed))
note("store", component(Kind.ARTIFACT_STORE, "regrow-kubernetes").configuration["path"])
note("back", raised("kubernetes", VALUES))
note("orchestrator keys", sorted(component(Kind.ORCHESTRATOR, "regrow-kubernetes").configuration))
note("more for pods", raised("kubernetes", VALUES | {"environment": {"A": "b"}, "secrets": ["hub"]}))
note("their environment", find("kubernetes").environment)
note("their secrets", len(find("kubernetes").secrets))
note("less for pods", raised("kubernetes", VALUES))
note("their secrets then", len(find("kubernetes").secrets))
for what, kind, key, value in (
    ("typo", "artifact_store", "paht", "x"), ("pod typo", "orchestrator", "pod_settings", {"volums": []}),
    ("type", "orchestrator", "max_parallelism", "many"),
):
    wrong = copy.deepcopy(VALUES)
    wrong[kind][key] = value
    note(what, raised("kubernetes", wrong))
for what, kind, given in (
    ("plain password", "experiment_tracker", {"tracking_username": "ada", "tracking_password": "hunter2"}),
    ("plain keys", "artifact_store", {"key": "AKIA", "secret": "hunter2"}),
):
    wrong = copy.deepcopy(VALUES)
    wrong[kind] |= given
    note(what, raised("kubernetes", wrong))
referred = copy.deepcopy(VALUES)
referred["experiment_tracker"] |= {"tracking_password": "{{ hub.HF_TOKEN }}"}
note("another reference", raised("kubernetes", referred))
note("back again", raised("kubernetes", VALUES))
client.update_stack_component("gpu", Kind.STEP_OPERATOR, configuration={"incluster": False})
note("by hand", [one.said for one in check(load("kubernetes")) if one.state == "missing"])
note("mended", raised("kubernetes"))
note("kubeflow", raised("kubeflow", VALUES))
note("kubeflow again", raised("kubeflow", VALUES))
note("kubeflow pod", component(Kind.ORCHESTRATOR, "regrow-kubeflow").configuration["pod_settings"])
note("local", [one.done for one in register_local_stack(Path.cwd())])
note("local again", [one.done for one in register_local_stack(Path.cwd())])
name = stack_name(Path.cwd())
note("local check", [(one.state, one.said) for one in check(load("local"), name=name, component_name=name)])
client.delete_stack("kubernetes")
client.create_stack("kubernetes", components={Kind.ORCHESTRATOR: "default", Kind.ARTIFACT_STORE: "default"})
note("name taken", raised("kubernetes", VALUES))
client.delete_stack("kubernetes")
client.delete_stack_component("gpu", Kind.STEP_OPERATOR)
client.create_stack_component("gpu", "kubernetes", Kind.STEP_OPERATOR, {})
note("operator taken", raised("kubernetes", VALUES))
print("NOTED " + json.dumps(noted))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return Project(tmp_path_factory.mktemp("stacks"))


@pytest.fixture(scope="module")
def noted(project) -> dict:
    (project.folder / "values.json").write_text(json.dumps(VALUES))
    lines = project.python(textwrap.dedent(PROGRAM)).splitlines()
    return json.loads(next(line for line in lines if line.startswith("NOTED ")).removeprefix("NOTED "))


def test_nothing_is_registered_before_everything_is_known(noted):
    assert "needs a values file with orchestrator.kubernetes_context" in noted["nothing yet"]["refused"]
    said = noted["no secrets"]["refused"]
    assert "zenml secret create regrow-s3 --aws_access_key_id=... --aws_secret_access_key=..." in said
    assert "zenml secret create regrow-mlflow --password=... --username=..." in said
    assert "zenml secret update regrow-s3 --aws_secret_access_key=..." in noted["half a secret"]["refused"]
    assert noted["nothing registered"] is True


def test_up_registers_everything_once(noted):
    assert set(noted["first"]["done"].values()) == {"registered"}
    assert noted["of the stack"]["components"] == {
        "orchestrator": ["regrow-kubernetes"],
        "artifact_store": ["regrow-kubernetes"],
        "container_registry": ["regrow-kubernetes"],
        "image_builder": ["regrow-kubernetes"],
        "experiment_tracker": ["regrow-kubernetes"],
        "model_registry": ["regrow-kubernetes"],
        "step_operator": ["gpu"],
    }
    assert noted["of the stack"]["environment"]["REGROW_CACHE"] == "/cache/regrow"
    assert noted["of the stack"]["images"] == VALUES["images"]
    assert set(noted["again"]["done"].values()) == {"unchanged"}
    assert noted["without values"] == noted["again"]


def test_passwords_stay_references(noted):
    assert noted["tracker"]["tracking_password"] == "{{regrow-mlflow.password}}"


def test_only_what_differs_is_updated(noted):
    updated = {what for what, done in noted["changed"]["done"].items() if done == "updated"}
    assert updated == {
        "artifact_store regrow-kubernetes",
        "orchestrator regrow-kubernetes",
        "stack kubernetes",
    }
    assert noted["store"] == "s3://other/zenml"
    # What the values no longer say is gone again.
    assert {what for what, done in noted["back"]["done"].items() if done == "updated"} == updated
    assert "max_parallelism" not in noted["orchestrator keys"]


def test_what_pods_get_is_the_stacks(noted):
    assert {what for what, done in noted["more for pods"]["done"].items() if done == "updated"} == {
        "stack kubernetes"
    }
    assert noted["their environment"] == load("kubernetes").environment | {"A": "b"}
    assert noted["their secrets"] == 1
    assert noted["less for pods"]["done"]["stack kubernetes"] == "updated"
    assert noted["their secrets then"] == 0


def test_settings_that_zenml_has_not_are_named(noted):
    assert "artifact_store.paht: ZenML has no such setting" in noted["typo"]["refused"]
    assert "orchestrator.pod_settings.volums" in noted["pod typo"]["refused"]
    assert "orchestrator.max_parallelism" in noted["type"]["refused"]


def test_a_secret_in_plain_is_refused_and_not_shown(noted):
    said = noted["plain password"]["refused"]
    assert "experiment_tracker.tracking_username, tracking_password: a secret in plain" in said
    assert "zenml secret create NAME --tracking_username=@FILE --tracking_password=@FILE" in said
    assert 'tracking_password: "{{NAME.tracking_password}}"' in said
    assert "artifact_store.key, secret: a secret in plain" in noted["plain keys"]["refused"]
    assert "hunter2" not in str(noted)
    assert noted["another reference"]["done"]["experiment_tracker regrow-kubernetes"] == "updated"


def test_what_was_changed_by_hand_is_found_and_mended(noted):
    said = [one for one in noted["by hand"] if "gpu" in one]
    assert said == ["the step_operator gpu is not as its file and values say: incluster"]
    assert noted["mended"]["done"]["step_operator gpu"] == "updated"


def test_kubeflow_has_its_own_flavor_and_pods(noted):
    assert set(noted["kubeflow"]["done"].values()) == {"registered"}
    assert set(noted["kubeflow again"]["done"].values()) == {"unchanged"}
    assert noted["kubeflow pod"]["volumes"] == [
        {"name": "cache", "persistentVolumeClaim": {"claimName": "regrow-cache"}}
    ]


def test_the_local_stack_is_one_of_them(noted):
    assert set(noted["local"]) == {"registered"}
    assert set(noted["local again"]) == {"unchanged"}
    assert {state for state, _ in noted["local check"]} == {"ok"}
    assert any("runs/store can be written to" in said for _, said in noted["local check"])


def test_what_is_somebody_elses_is_left_alone(noted):
    assert "registered already, and not by regrow" in noted["name taken"]["refused"]
    assert "zenml step-operator rename gpu NEW" in noted["operator taken"]["refused"]


def test_the_command_line(project, noted):
    listed = project.regrow("stack", "list")
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[:2] for line in listed.stdout.splitlines()] == [
        ["kubeflow", "registered"],
        ["kubernetes", "-"],
        ["local", "registered"],
    ]
    checked = project.regrow("stack", "check", "kubeflow", "--json")
    assert checked.returncode == 3
    found = json.loads(checked.stdout)["findings"]
    missing = {one["what"] for one in found if one["state"] == "missing"}
    # Nothing of it can be reached from here, and nothing of that is an error.
    assert missing == {
        "zenml",
        "artifact_store",
        "experiment_tracker",
        "container_registry",
        "cluster",
        "images",
    }
    # The values name base and tune.
    images = [one["said"] for one in found if one["what"] == "images"]
    assert len(images) == 2
    assert "generate: the values name none; only generation with the engine vllm wants it" in images
    assert any(
        said.startswith("evaluate: the values name none, for compute_layer_importance") for said in images
    )
    assert all(one["remedy"] for one in found if one["state"] == "missing")
    refused = project.regrow("stack", "up", "kubernetes", "--values", "none.json")
    assert refused.returncode == 2
    assert "none.json: no such file" in refused.stderr
    unknown = project.regrow("run", "configs/demo.yaml", "--stack", "kubernets")
    assert unknown.returncode == 2
    assert "regrow stack list" in unknown.stderr
