"""`regrow stack check` asks a real cluster, registry, store and MLflow; ZenML's records lie in a file of their own."""

import json
import subprocess

import pytest

from infra.cluster.values import IMAGES_OF_STAGES
from tests.cluster.prepared import Prepared
from tests.cluster.running import Running
from tests.pipelines.project import Project

pytestmark = pytest.mark.cluster


class Site:
    """A checkout whose stack `kubernetes` is the cluster."""

    def __init__(self, cluster: Running, project: Project) -> None:
        self.project = project
        given = cluster.variables
        self.environment = project.environment | {"KUBECONFIG": given["KUBECONFIG"]}
        self.values = json.loads(cluster.command("values"))
        # This test's ZenML is not the shared one, whose stack stays as it is.
        self.values.pop("zenml", None)
        nothing = f"{cluster.cluster.registry}/nothing:there"
        self.values["images"] = dict.fromkeys(IMAGES_OF_STAGES, cluster.busybox) | {"tune": nothing}
        keys = {name: given[name.upper()] for name in ("aws_access_key_id", "aws_secret_access_key")}
        login = {"username": given["MLFLOW_TRACKING_USERNAME"], "password": given["MLFLOW_TRACKING_PASSWORD"]}
        project.python(
            "from zenml.client import Client\n"
            f"Client().create_secret('regrow-s3', values={keys!r})\n"
            f"Client().create_secret('regrow-sources', values={ {name.upper(): one for name, one in keys.items()}!r})\n"
            f"Client().create_secret('regrow-mlflow', values={login!r})\n"
        )

    def regrow(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.project.command(*words), cwd=self.project.folder, env=self.environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip

    def found(self, **more) -> list[dict]:
        """Register the stack with these values, and say what the check says."""
        (self.project.folder / "values.json").write_text(json.dumps(self.values | more))
        done = self.regrow("stack", "up", "kubernetes", "--values", "values.json")
        assert done.returncode == 0, done.stderr
        checked = self.regrow("stack", "check", "kubernetes", "--json")
        assert checked.stdout, checked.stderr
        return json.loads(checked.stdout)["findings"]


@pytest.fixture(scope="module")
def site(cluster: Running, tmp_path_factory) -> Site:
    Prepared(cluster)
    return Site(cluster, Project(tmp_path_factory.mktemp("site")))


def test_what_is_there_is_found(site):
    found = site.found()
    missing = [(one["what"], one["said"]) for one in found if one["state"] == "missing"]
    # Of the stages' sizes in the file, few fit a test cluster: that is another test's matter.
    assert {what for what, _ in missing} <= {"zenml", "images", "quota"}
    assert [said for what, said in missing if what == "images"] == [
        f"tune: {site.values['images']['tune']} is not in the registry"
    ]
    said = {one["said"] for one in found if one["state"] == "ok"}
    assert "the namespace regrow is there" in said
    assert {
        "the service account regrow-orchestrator is there",
        "the service account regrow-step is there",
    } <= said
    assert "the service account regrow-orchestrator may do what ZenML does there" in said
    assert "the service account regrow-step may do what ZenML does there" in said
    assert any(one["what"] == "gpus" and one["state"] == "ok" for one in found)
    assert any("can be written to" in one for one in said)
    assert any("MLflow answers" in one for one in said)
    assert f"base: {site.values['images']['base']}" in said


def test_what_is_not_there_is_named(site):
    orchestrator = site.values["orchestrator"] | {
        "kubernetes_namespace": "nowhere",
        "service_account_name": "nobody",
    }
    operator = site.values["step_operators"]["gpu"] | {
        "pod_settings": {"node_selectors": {"regrow/pool": "none"}}
    }
    found = site.found(
        orchestrator=orchestrator,
        step_operators={"gpu": operator},
        stages={"every": {"resources": {"memory": "9000Gi"}}},
    )
    missing = [one["said"] for one in found if one["state"] == "missing"]
    for said in (
        "the step operator gpu uses the namespace regrow, the orchestrator nowhere",
        "the namespace nowhere is not there",
        "the service account nobody is not there",
        "the service account nobody may not: create jobs",
        "0 nodes with regrow/pool=none",
    ):
        assert any(said in one for one in missing), missing


def test_a_quota_that_no_pod_fits_is_named(site):
    found = site.found(stages={"every": {"resources": {"memory": "9000Gi"}}})
    quota = [one["said"] for one in found if one["what"] == "quota" and one["state"] == "missing"]
    assert len(quota) == 1
    assert "memory" in quota[0]
