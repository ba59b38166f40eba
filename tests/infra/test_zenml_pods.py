"""What docs/kubernetes.md says about pod settings, held against the pods and Jobs that ZenML makes of them."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def job(settings: dict, labels: dict[str, str] | None = None) -> dict:
    """Return the Job of a step operator as the API server gets it."""
    from kubernetes.client import ApiClient
    from zenml.integrations.kubernetes import manifest_utils
    from zenml.integrations.kubernetes.pod_settings import KubernetesPodSettings

    labels = labels or {}
    pod = manifest_utils.build_pod_manifest(
        pod_name=None, image_name="regrow-tune", command=["python"], args=["-V"], privileged=False, labels=labels,
        pod_settings=KubernetesPodSettings(**settings), service_account_name="regrow-step",
    )  # fmt: skip
    made = manifest_utils.build_job_manifest(
        "tune", manifest_utils.pod_template_manifest_from_pod(pod), labels=labels
    )
    return ApiClient().sanitize_for_serialization(made) | {"apiVersion": "batch/v1", "kind": "Job"}


def documented() -> dict:
    """Return the pod settings that docs/kubernetes.md names."""
    page = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    return yaml.safe_load(re.search(r"```yaml\n(container_security_context.*?)```", page, re.DOTALL)[1])


def test_the_documented_settings_make_restricted_pods():
    spec = job(documented())["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["fsGroup"] == 1000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["priorityClassName"] == "regrow-pipeline"
    container = spec["containers"][0]["securityContext"]
    assert container["allowPrivilegeEscalation"] is False and container["privileged"] is False
    assert container["capabilities"] == {"drop": ["ALL"]}


def test_labels_of_the_settings_are_the_jobs_too():
    """Kueue looks at the Job; ZenML has settings for the pod alone."""
    made = job({"labels": {"kueue.x-k8s.io/queue-name": "regrow-gpu"}}, {"run_id": "r"})
    assert made["metadata"]["labels"] == {"run_id": "r", "kueue.x-k8s.io/queue-name": "regrow-gpu"}


def test_network_policies_know_zenmls_pods():
    """They select by labels that ZenML sets on orchestrator and step pods."""
    from zenml.integrations.kubernetes.orchestrators import kubernetes_orchestrator
    from zenml.integrations.kubernetes.orchestrators import kubernetes_orchestrator_entrypoint as entrypoint
    from zenml.integrations.kubernetes.step_operators import kubernetes_step_operator

    for module in (kubernetes_orchestrator, entrypoint, kubernetes_step_operator):
        text = Path(module.__file__).read_text(encoding="utf-8")
        assert '"project_id": kube_utils' in text and '"pipeline": kube_utils' in text, module.__name__
