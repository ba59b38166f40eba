"""What programs that use the cluster need: variables, and the values of the `kubernetes` stack."""

from pathlib import Path
from typing import Any, get_args

from infra.cluster import registry
from infra.cluster.cluster import CONTEXT, Cluster
from infra.servers import mlflow_server, s3, zenml_server
from infra.servers.environment import variables as of_servers
from infra.servers.home import Home
from infra.stacks.schema import Image
from regrow.files import read_json

NAMESPACE = "regrow"
# ZenML secret whose keys are variables of every step.
SOURCES = "regrow-sources"
IMAGES = Path("runs/images.json")
IMAGES_OF_STAGES: tuple[str, ...] = get_args(Image)
# The stack's stages ask for what a model of billions of parameters needs; one small machine runs tiny ones.
_RESOURCES = {"cpu": "100m", "memory": "2Gi", "ephemeral_storage": "1Gi"}
_WAITING = {"memory": "600Mi", "ephemeral_storage": "512Mi"}
_ON_GPUS = (
    "compute_layer_importance", "evaluate", "measure_drift", "measure_speed", "measure_shift", "generate_self_data",
    "fine_tune",
)  # fmt: skip


def variables(cluster: Cluster) -> dict[str, str]:
    """Return the environment of a client, passwords of the servers beside the cluster included.

    Raises:
        InputError: the cluster was never up.
    """
    found = {"KUBECONFIG": cluster.pki("admin.conf")} | registry.variables(cluster)
    return found | (of_servers(cluster.servers) if has_servers(cluster.servers) else {})


def values(cluster: Cluster, images: Path = IMAGES) -> dict[str, Any]:
    """Return the values of the stack `kubernetes`, in the shape of Terraform's output `stack`; no secret is in it.

    Args:
        cluster: that runs, or ran.
        images: the file that `infra.docker build` wrote; the base image stands for those that are not built.

    Raises:
        InputError: the cluster was never up, or `images` is no JSON.
    """
    found: dict[str, Any] = {
        "stages": {"every": {"resources": _RESOURCES}}
        | {stage: {"resources": {"shm": "64Mi"}} for stage in _ON_GPUS},
        "waiting": _WAITING,
        "container_registry": {"uri": cluster.registry, "default_repository": "regrow/zenml"},
        "image_builder": {},
        "orchestrator": {
            "kubernetes_context": CONTEXT,
            "kubernetes_namespace": NAMESPACE,
            "service_account_name": "regrow-orchestrator",
            "step_pod_service_account_name": "regrow-step",
            # Pods that wait for a GPU fill the namespace's quota as if they worked.
            "max_parallelism": 4,
        },
        "step_operators": {
            "gpu": {
                "kubernetes_namespace": NAMESPACE,
                "service_account_name": "regrow-step",
                "incluster": True,
                "pod_settings": {"node_selectors": {"regrow/pool": "gpu"}},
            }
        },
    }
    home = cluster.servers
    if has_servers(home):
        endpoint = s3.url(home)
        found |= {
            "artifact_store": {
                "path": f"s3://{s3.ZENML_BUCKET}/artifacts",
                "authentication_secret": "regrow-s3",
                "client_kwargs": {"endpoint_url": endpoint},
            },
            # Its name and password: the stack file refers to the ZenML secret regrow-mlflow.
            "experiment_tracker": {"tracking_uri": mlflow_server.url(home)},
            "model_registry": {},
            "zenml": {"url": zenml_server.url(home)},
            "secrets": [SOURCES],  # models and data may lie in its buckets, too
            "environment": {
                "AWS_DEFAULT_REGION": s3.REGION,
                "AWS_ENDPOINT_URL_S3": endpoint,
                "MLFLOW_S3_ENDPOINT_URL": endpoint,
                "MLFLOW_TRACKING_URI": mlflow_server.url(home),
            },
        }
    if images.is_file():
        built = {name.removeprefix("regrow-"): reference for name, reference in read_json(images).items()}
        # Its GPUs compute nothing: what the base image has is all that any stage can use here.
        found["images"] = (dict.fromkeys(IMAGES_OF_STAGES, built["base"]) if "base" in built else {}) | built
    return found


def has_servers(home: Home) -> bool:
    """Tell whether all three servers were up beside the cluster."""
    return all(home.known_port(name) is not None for name in ("s3", "mlflow", "zenml")) and (
        home.known_secret("zenml.api_key") is not None
    )
