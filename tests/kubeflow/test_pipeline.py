"""The compress pipeline compiled for Kubeflow, and executed by Kubeflow's own local runner on a real Docker daemon.

There is no Kubeflow server here: submission, scheduling and what a cluster does with resources are not run.
"""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("kfp", reason="needs .venv-kubeflow (make test-kubeflow)")

from tests.kubeflow.world import IMAGE

pytestmark = pytest.mark.kubeflow
GPU_STAGES = (
    "compute_layer_importance",
    "generate_self_data_",
    "fine_tune_",
    "evaluate_",
    "measure_shift_",
    "measure_drift_",
)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def parts(compiled):
    """The pipeline and what only Kubernetes knows, each by the step's name."""
    spec, platform = yaml.safe_load_all(compiled.read_text())
    tasks = {task["taskInfo"]["name"]: task for task in spec["root"]["dag"]["tasks"].values()}
    executors = spec["deploymentSpec"]["executors"]
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    label = {
        name: spec["components"][task["componentRef"]["name"]]["executorLabel"]
        for name, task in tasks.items()
    }
    return {
        name: {
            "task": task,
            "container": executors[label[name]]["container"],
            "pod": pods.get(label[name], {}),
        }
        for name, task in tasks.items()
    }


def is_gpu(name: str) -> bool:
    return name.startswith(GPU_STAGES)


def test_every_step_is_a_task_after_those_whose_outputs_it_takes(parts, world):
    names = [one["name"] for one in world.config["parameters"]["datasets"]]
    for name in names:
        for stage in ("generate_self_data", "validate_data", "fine_tune"):
            assert f"{stage}_{name}" in parts
        assert f"validate-data-{name}" in parts[f"fine_tune_{name}"]["task"]["dependentTasks"]
        assert "prune" in parts[f"fine_tune_{name}"]["task"]["dependentTasks"]
        # Beside importance and pruning, not after them.
        assert parts[f"generate_self_data_{name}"]["task"]["dependentTasks"] == ["load-model"]
    assert {"load_model", "prune", "merge", "register"} <= set(parts)


def test_gpu_stages_ask_for_a_gpu_and_no_other_does(parts):
    assert sum(is_gpu(name) for name in parts) >= 8
    for name, part in parts.items():
        asked = part["container"]["resources"]
        assert asked["resourceMemoryLimit"], name
        if is_gpu(name):
            assert asked["accelerator"]["resourceType"] == "nvidia.com/gpu", name
            assert asked["accelerator"]["resourceCount"] == "1", name
            assert part["pod"]["nodeSelector"]["labels"] == {"regrow/pool": "gpu"}
            assert part["pod"]["tolerations"][0]["key"] == "nvidia.com/gpu"
            (shm,) = part["pod"]["emptyDirMounts"]
            assert (shm["mountPath"], shm["medium"]) == ("/dev/shm", "Memory")
        else:
            assert "accelerator" not in asked, name
            assert "nodeSelector" not in part["pod"], name


def test_images_retries_cache_and_the_volume_are_those_of_the_stack_file(parts):
    stages = yaml.safe_load((ROOT / "infra/stacks/kubeflow.yaml").read_text())["stages"]
    for name, part in parts.items():
        assert part["container"]["image"] == IMAGE, name
        assert part["task"]["cachingOptions"] == {}, name  # off
        assert part["pod"]["pvcMount"][0]["constant"] == "regrow-cache", name
    for name, stage in (("load_model", "load_model"), ("fine_tune_plants", "fine_tune")):
        assert parts[name]["task"]["retryPolicy"]["maxRetryCount"] == stages[stage]["retries"]
    assert "retryPolicy" not in parts["validate_data_plants"]["task"]


def test_no_credential_is_in_the_file_and_pods_take_theirs_from_a_secret(compiled, parts, world):
    text = compiled.read_text()
    for name in (
        "ZENML_STORE_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "MLFLOW_TRACKING_PASSWORD",
    ):
        assert world.variables[name] not in text, name
    for value in world.servers.secrets.values():
        assert value not in text
    assert "ZENML_STORE_API_TOKEN" not in text
    for part in parts.values():
        assert part["pod"]["secretAsEnv"][0]["secretName"] == "regrow-zenml"
        assert part["pod"]["secretAsEnv"][0]["keyToEnv"] == [
            {"secretKey": "api-key", "envVar": "ZENML_STORE_API_KEY"}
        ]


def test_kfp_and_zenml_are_those_that_fit_each_other():
    assert importlib.metadata.version("kfp").startswith("2.16.")


def test_a_stack_of_another_orchestrator_is_refused_in_one_line(world):
    done = subprocess.run(
        [sys.executable, "-m", "infra.kubeflow", "compile", "test.yaml", "--stack", "local"],
        cwd=world.folder, env=world.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "regrow-kubeflow is needed to compile for Kubeflow" in done.stderr.splitlines()[-1]


def test_the_whole_pipeline_runs_in_containers_and_zenml_has_the_run(ran, world):
    assert ran["status"] == "completed"
    assert ran["stack"] == "kubeflow"
    names = [one["name"] for one in world.config["parameters"]["datasets"]]
    assert {f"fine_tune_{name}" for name in names} | {"merge", "register"} <= set(ran["steps"])
    assert set(ran["steps"].values()) == {"completed"}


def test_its_artifacts_lie_in_the_store_and_its_version_in_mlflow(ran, world, monkeypatch):
    import mlflow

    from infra.servers import s3

    uris = [uri for outputs in ran["outputs"].values() for uri in outputs.values()]
    assert uris and all(uri.startswith("s3://zenml/artifacts/") for uri in uris)
    store = s3.client(world.servers.home)
    prefix = ran["outputs"]["merge"]["merged"].removeprefix("s3://zenml/")
    listed = store.list_objects_v2(Bucket=s3.ZENML_BUCKET, Prefix=prefix)["Contents"]
    assert any(one["Key"].endswith(".safetensors") for one in listed)
    for name, value in world.variables.items():
        monkeypatch.setenv(name, value)
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(world.variables["MLFLOW_TRACKING_URI"])
    try:
        version = mlflow.MlflowClient().get_model_version_by_alias("tiny-regrow", "challenger")
    finally:
        mlflow.set_tracking_uri(before)
    assert version.tags["regrow.digest"] == ran["summary"]["registered"]["digest"], json.dumps(
        ran["summary"]
    )[:2000]
