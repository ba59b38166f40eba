"""The gate inside the pipeline: one set goes on without its bad row, the next one fails."""

import json

import pytest

from tests.pipelines.project import Project, tiny_config

SECRET = "hf_" + "aB3dE5gH7jK9" * 3
FILES = ["data_docs.html", "gate.html", "gate.json", "quarantine.jsonl"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project whose sets hold a key in row 3; only that of plants puts such rows into quarantine."""
    project = Project(tmp_path_factory.mktemp("gate"))
    config = tiny_config(project)
    for name in ("plants", "water"):
        file = project.folder / f"data/{name}.jsonl"
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        rows[3]["a"] += f" The key is {SECRET}."
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    gate = config["parameters"]["gate"]
    config["parameters"]["datasets"][0]["gate"] = gate | {"on_fail": "quarantine"}
    return project, project.regrow("run", project.write_config(config))


def kept(project, name, artifact):
    """What ZenML and MLflow hold of a set's verdict."""
    stage = f"validate_data.{name}"
    code = (
        "import json, mlflow\nfrom pathlib import Path\nfrom zenml.client import Client\n"
        f"version = Client().get_artifact_version({artifact!r})\n"
        "verdict = version.load()\n"
        f"mlflow.set_tracking_uri('sqlite:///{project.folder}/runs/store/mlflow.db')\n"
        "run = mlflow.search_runs(search_all_experiments=True, order_by=['start_time DESC'],"
        " output_format='list')[0]\n"
        f"files = mlflow.MlflowClient().list_artifacts(run.info.run_id, {stage!r})\n"
        f"rows = mlflow.artifacts.load_text(run.info.artifact_uri + '/{stage}/quarantine.jsonl')\n"
        "print(json.dumps({'shown': sorted(Path(one.uri).name for one in version.visualizations),\n"
        "  'passed': verdict.passed, 'records': verdict.records, 'rows': verdict.quarantine.read_text(),\n"
        "  'files': sorted(Path(one.path).name for one in files), 'mlflow': rows,\n"
        "  'metrics': run.data.metrics, 'params': run.data.params}))"
    )
    return json.loads(project.python(code).splitlines()[-1])


def secrets(lines):
    """The rows of a quarantine file that offend the check on keys."""
    return [one for one in map(json.loads, lines.splitlines()) if "secrets" in one["failed"]]


def test_quarantine_lets_the_rest_go_on(finished):
    project, done = finished
    assert "Step `validate_data_plants` has finished" in done.stderr
    found = kept(project, "plants", "gate")
    assert found["passed"]
    assert found["records"] == 11
    assert found["shown"] == ["data_docs.html", "gate.html"]
    assert found["files"] == FILES
    assert found["rows"] == found["mlflow"]
    assert [one["removed"] for one in secrets(found["rows"])] == [True]
    assert found["metrics"]["validate_data.plants.removed"] == 1
    assert found["metrics"]["validate_data.plants.removed.secrets"] == 1
    assert found["params"]["validate_data.plants.on_fail"] == "quarantine"
    code = (
        "from zenml.client import Client\ndata = Client().get_artifact_version('accepted').load()\n"
        "print(len(data.rows()), data.summary['quarantined'], [file.name for file in data.folder.iterdir()])"
    )
    assert project.python(code).splitlines()[-1].startswith("11 1 ")


def test_a_failed_gate_shows_every_row_in_both_uis(finished):
    project, done = finished
    assert done.returncode == 3, done.stderr[-4000:]
    assert "Step `fine_tune_water` has started" not in done.stderr
    assert SECRET not in done.stderr
    found = kept(project, "water", "failed_gate_water")
    assert not found["passed"]
    assert found["shown"] == ["data_docs.html", "gate.html"]
    assert found["files"] == FILES
    assert found["rows"] == found["mlflow"]
    (row,) = secrets(found["rows"])
    assert "The key is [API key hf…]." in row["reference"]
    assert row["removed"] is False
    assert SECRET not in found["rows"]
