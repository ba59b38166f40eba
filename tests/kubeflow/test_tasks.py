"""Settings of pods as they stand in the compiled pipeline: `dress` on a task, compiled by kfp."""

import logging

import pytest
import yaml

pytest.importorskip("kfp", reason="needs .venv-kubeflow (make test-kubeflow)")

from kfp import compiler, dsl
from zenml.config.resource_settings import ResourceSettings
from zenml.config.retry_config import StepRetryConfig
from zenml.integrations.kubernetes.pod_settings import KubernetesPodSettings

from infra.kubeflow.flavor import KubeflowConfig, KubeflowSettings
from infra.kubeflow.tasks import dress
from regrow.errors import InputError

pytestmark = pytest.mark.kubeflow


@dsl.container_component
def work():
    return dsl.ContainerSpec(image="example/image:1", command=["true"])


@pytest.fixture
def compile_with(tmp_path):
    """Compile a pipeline of one task; return its container, its task and what only Kubernetes knows."""

    def compiled(pod=None, *, plain=None, retry=None, secrets=None):
        settings = KubernetesPodSettings(**(pod or {}))

        @dsl.pipeline(name="one")
        def one():
            dress(work(), "fine_tune", settings, plain or ResourceSettings(), retry, secrets or {})

        path = tmp_path / "one.yaml"
        compiler.Compiler().compile(one, str(path))
        spec, *platform = yaml.safe_load_all(path.read_text())
        executors = platform[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if platform else {}
        return (
            spec["deploymentSpec"]["executors"]["exec-work"]["container"],
            spec["root"]["dag"]["tasks"]["work"],
            executors.get("exec-work", {}),
        )

    return compiled


def test_gpus_cpu_and_memory_are_requested(compile_with):
    limits = {"cpu": "8", "memory": "96Gi", "nvidia.com/gpu": "2"}
    container, _, _ = compile_with(
        {"resources": {"requests": {"cpu": "4", "memory": "64Gi"}, "limits": limits}}
    )
    asked = container["resources"]
    assert asked["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert asked["accelerator"]["resourceCount"] == "2"
    assert (asked["resourceCpuRequest"], asked["resourceCpuLimit"]) == ("4", "8")
    assert (asked["resourceMemoryRequest"], asked["resourceMemoryLimit"]) == ("64Gi", "96Gi")


def test_zenmls_own_resource_settings_arrive_too_and_pod_settings_win(compile_with):
    plain = ResourceSettings(cpu_count=2, memory="3GiB", gpu_count=1)
    container, _, _ = compile_with(plain=plain)
    asked = container["resources"]
    assert (asked["resourceCpuLimit"], asked["resourceMemoryLimit"]) == ("2", "3072Mi")
    assert asked["accelerator"]["resourceType"] == "nvidia.com/gpu"
    assert asked["accelerator"]["resourceCount"] == "1"
    container, _, _ = compile_with({"resources": {"limits": {"cpu": "1"}}}, plain=plain)
    assert container["resources"]["resourceCpuLimit"] == "1"
    assert "accelerator" not in container["resources"]


def test_selectors_tolerations_shared_memory_claims_and_labels_are_kept(compile_with):
    _, _, pod = compile_with(
        {
            "node_selectors": {"regrow/pool": "gpu"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "volumes": [
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}},
                {"name": "cache", "persistentVolumeClaim": {"claimName": "regrow-cache"}},
                {"name": "keys", "secret": {"secretName": "regrow-signing"}},
            ],
            "volume_mounts": [
                {"name": "shm", "mountPath": "/dev/shm"},
                {"name": "cache", "mountPath": "/cache", "subPath": "a"},
                {"name": "keys", "mountPath": "/keys"},
            ],
            "labels": {"app.kubernetes.io/part-of": "regrow"},
            "image_pull_secrets": ["registry"],
            "container_security_context": {"runAsNonRoot": True, "runAsUser": 1000},
        }
    )
    assert pod["nodeSelector"]["labels"] == {"regrow/pool": "gpu"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["emptyDirMounts"] == [
        {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "8Gi"}
    ]
    assert (pod["pvcMount"][0]["constant"], pod["pvcMount"][0]["subPath"]) == ("regrow-cache", "a")
    assert pod["secretAsVolume"][0]["secretName"] == "regrow-signing"
    assert pod["podMetadata"]["labels"] == {"app.kubernetes.io/part-of": "regrow"}
    assert pod["imagePullSecret"][0]["secretName"] == "registry"
    assert pod["securityContext"] == {"runAsNonRoot": True, "runAsUser": "1000"}


def test_variables_come_from_secrets_by_name_only(compile_with):
    reference = {"secretKeyRef": {"name": "hub", "key": "token"}}
    container, _, pod = compile_with(
        {"env": [{"name": "HF_TOKEN", "valueFrom": reference}, {"name": "OMP_NUM_THREADS", "value": "4"}]},
        secrets={"ZENML_STORE_API_KEY": "regrow-zenml/api-key"},
    )
    assert container["env"] == [{"name": "OMP_NUM_THREADS", "value": "4"}]
    assert [(one["secretName"], one["keyToEnv"]) for one in pod["secretAsEnv"]] == [
        ("hub", [{"secretKey": "token", "envVar": "HF_TOKEN"}]),
        ("regrow-zenml", [{"secretKey": "api-key", "envVar": "ZENML_STORE_API_KEY"}]),
    ]


def test_a_step_is_tried_again_as_its_retry_says(compile_with):
    _, task, _ = compile_with(retry=StepRetryConfig(max_retries=3, delay=30, backoff=2))
    policy = task["retryPolicy"]
    assert policy["maxRetryCount"] == 3
    assert policy["backoffDuration"] == "30s"
    assert policy["backoffFactor"] == 2.0


def test_what_kubeflow_cannot_say_is_named(compile_with, caplog):
    with caplog.at_level(logging.WARNING, logger="infra.kubeflow.tasks"):
        compile_with(
            {
                "resources": {"limits": {"ephemeral-storage": "8Gi"}},
                "container_security_context": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
                "additional_pod_spec_args": {
                    "security_context": {"fsGroup": 1000},
                    "priority_class_name": "regrow-pipeline",
                },
            }
        )
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (
        "step fine_tune: Kubeflow Pipelines cannot say resources.ephemeral-storage, security_context.fsGroup, "
        "pod.priority_class_name; left out"
    )


@pytest.mark.parametrize(
    ("pod", "says"),
    [
        (
            {
                "volumes": [{"name": "disk", "hostPath": {"path": "/"}}],
                "volume_mounts": [{"name": "disk", "mountPath": "/d"}],
            },
            "cannot mount the volume 'disk' at /d",
        ),
        ({"volume_mounts": [{"name": "none", "mountPath": "/d"}]}, "cannot mount the volume 'none'"),
        ({"env_from": [{"secretRef": {"name": "s"}}]}, "no env_from"),
        ({"resources": {"limits": {"nvidia.com/gpu": "1", "amd.com/gpu": "1"}}}, "one kind of device"),
        ({"resources": {"limits": {"memory": "1.5Gi"}}}, "Invalid memory string"),
    ],
)
def test_what_a_step_would_not_run_without_is_an_error(compile_with, pod, says):
    with pytest.raises(InputError, match=says) as caught:
        compile_with(pod)
    assert str(caught.value).startswith("step fine_tune: ")


def test_nothing_is_asked_for_where_nothing_is_set(compile_with):
    container, task, pod = compile_with()
    assert "resources" not in container
    assert "retryPolicy" not in task
    assert pod == {}


def test_the_flavor_keeps_pod_settings_and_checks_what_it_is_told():
    settings = KubeflowSettings(pod_settings={"labels": {"a": "b"}})
    assert settings.pod_settings.labels == {"a": "b"}
    config = KubeflowConfig(pod_settings={"labels": {"a": "b"}}, secrets={"HF_TOKEN": "hub/token"})
    assert config.pod_settings.labels == {"a": "b"}
    assert config.handles_step_retries
    with pytest.raises(ValueError, match="HF_TOKEN: 'token' is no"):
        KubeflowConfig(secrets={"HF_TOKEN": "token"})
    with pytest.raises(ValueError, match="go together"):
        KubeflowSettings(client_username="ada")
