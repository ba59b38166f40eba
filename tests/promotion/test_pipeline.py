"""Promotion with a real ZenML: stage and alias move together, from the command and as a pipeline."""

import json
import subprocess

import pytest

from tests.pipelines.project import Project
from tests.tiny import tiny_checkpoint

pytestmark = pytest.mark.processes
NAME = "grass"
PRELUDE = """
import json
from pathlib import Path
import mlflow
from zenml.client import Client
from infra.local.stack import activate_local_stack, tracking_uri
root = Path.cwd()
activate_local_stack(root)
mlflow.set_tracking_uri(tracking_uri(root))
"""
REGISTER = """
from regrow.checkpoint import Checkpoint
from regrow.registry import RegistrySpec, register
Client().create_model("grass")
for seed in (1, 2):
    version = Client().create_model_version("grass")
    checkpoint = Checkpoint.open(root / f"data/{seed}")
    register(checkpoint, RegistrySpec(name="grass"), tags={"zenml.model_version": version.name}, metrics={})
"""
STATE = """
aliases = mlflow.MlflowClient().get_registered_model("grass").aliases
stages = {one.name: one.stage for one in Client().list_model_versions(model_name_or_id="grass").items}
print(json.dumps([{key: str(value) for key, value in aliases.items()}, stages]))
"""
ARTIFACTS = """
found = {}
for name in ("decision", "promotion"):
    found[name] = [one.load().model_dump(mode="json") for one in Client().list_artifact_versions(artifact=name).items]
print(json.dumps(found))
"""
OFF = "{data_gate: ignored, licences: null, attestation: {required: false}"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("promotion"))
    for seed in (1, 2):
        tiny_checkpoint(made.folder / f"data/{seed}", seed=seed)
    (made.folder / "easy.yaml").write_text(f"champion: {OFF}, non_inferiority: null}}\n")
    (made.folder / "hard.yaml").write_text(
        f"champion: {OFF}, floors: {{arc: 0.5}}, non_inferiority: null}}\n"
    )
    made.python(PRELUDE + REGISTER)
    return made


def state(project):
    return json.loads(project.python(PRELUDE + STATE).splitlines()[-1])


def test_as_a_pipeline_and_as_a_command_stage_and_alias_move_together(project):
    done = project.regrow(
        "promote", NAME, "1", "--to", "champion", "--policy", "easy.yaml", "--pipeline", "--json"
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["status"] == "promoted"
    aliases, stages = state(project)
    assert (aliases["champion"], stages["1"]) == ("1", "production")
    refused = project.regrow("promote", NAME, "2", "--to", "champion", "--policy", "hard.yaml", "--pipeline")
    assert refused.returncode == 3, refused.stderr[-3000:]
    assert "| floor: arc | FAILED | not evaluated" in refused.stdout
    found = json.loads(project.python(PRELUDE + ARTIFACTS).splitlines()[-1])
    assert sorted(one["status"] for one in found["promotion"]) == ["promoted", "refused"]
    assert sorted(one["version"]["version"] for one in found["decision"]) == ["1", "2"]
    environment = project.environment | {
        "MLFLOW_TRACKING_URI": f"sqlite:///{project.folder}/runs/store/mlflow.db"
    }
    plain = subprocess.run(
        project.command("promote", NAME, "2", "--to", "champion", "--policy", "easy.yaml", "--json"),
        cwd=project.folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr[-3000:]
    aliases, stages = state(project)
    assert aliases["champion"] == "2"
    assert stages == {"1": "archived", "2": "production"}
    back = project.regrow("promote", NAME, "--rollback", "--policy", "easy.yaml", "--pipeline", "--json")
    assert back.returncode == 0, back.stderr[-3000:]
    aliases, stages = state(project)
    assert aliases["champion"] == "1"
    assert stages == {"1": "production", "2": "archived"}
    record = subprocess.run(
        project.command("promote", NAME, "--record", "--json"),
        cwd=project.folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    shown = json.loads(record.stdout)
    assert shown["problems"] == [] and [one["state"] for one in shown["lines"]] == ["done"] * 3
    assert shown["lines"][0]["stages"] == {"before": {"1": "none"}, "after": {"1": "production"}}
