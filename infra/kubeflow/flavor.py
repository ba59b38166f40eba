"""ZenML's Kubeflow orchestrator with pods that get all that their settings say: the flavor `regrow-kubeflow`.

ZenML 0.98's own flavor replaces `pod_settings` by an empty one, takes a GPU only beside a node selector named
`accelerator`, fails on a memory limit and writes the run's token into the compiled pipeline. `orchestrator.py` mends
that where pipelines are submitted. Images of steps need no Kubeflow package: there, `pod.py` stands for it.
"""

from importlib.util import find_spec
from typing import Any

from pydantic import Field, field_validator, model_validator
from zenml.client import Client
from zenml.enums import StackComponentType
from zenml.integrations.kubeflow.flavors.kubeflow_orchestrator_flavor import (
    KubeflowOrchestratorConfig,
    KubeflowOrchestratorFlavor,
    KubeflowOrchestratorSettings,
)

NAME = "regrow-kubeflow"
SOURCE = "infra.kubeflow.flavor.KubeflowFlavor"


class KubeflowSettings(KubeflowOrchestratorSettings):
    """What a step or a pipeline may say about its pods.

    Attributes:
        secrets: environment variable -> `<Kubernetes secret>/<key>`, of every pod.
    """

    secrets: dict[str, str] = Field(
        default_factory=dict,
        description="Environment variables of the pods that come from Kubernetes secrets, as `<secret>/<key>`. "
        "ZENML_STORE_API_KEY belongs here: no token is written into the compiled pipeline.",
    )

    @model_validator(mode="before")
    @classmethod
    def _validate_and_migrate_pod_settings(cls, data: Any) -> Any:
        # In the place of ZenML's, which puts an empty object into `pod_settings`.
        if isinstance(data, dict) and bool(data.get("client_username")) != bool(data.get("client_password")):
            raise ValueError("client_username and client_password go together: give both or none")
        return data

    @field_validator("secrets")
    @classmethod
    def _secret_and_key(cls, value: dict[str, str]) -> dict[str, str]:
        for name, place in value.items():
            secret, _, key = place.partition("/")
            if not secret or not key:
                raise ValueError(f"{name}: {place!r} is no `<secret>/<key>` of a Kubernetes secret")
        return value


class KubeflowConfig(KubeflowSettings, KubeflowOrchestratorConfig):
    """The component's configuration: the server to talk to, and settings for every run."""

    @property
    def handles_step_retries(self) -> bool:
        """Kubeflow starts a failed step's pod again, also where the node went away."""
        return True


class KubeflowFlavor(KubeflowOrchestratorFlavor):
    """The flavor `regrow-kubeflow`."""

    @property
    def name(self) -> str:
        """Its name in ZenML."""
        return NAME

    @property
    def config_class(self) -> type[KubeflowConfig]:
        """The class of its configuration."""
        return KubeflowConfig

    @property
    def implementation_class(self) -> type[Any]:
        """The orchestrator; inside a pod, whose image has no kfp, the part that a step asks for."""
        if find_spec("kfp") is None:
            from infra.kubeflow.pod import InsidePod

            return InsidePod
        from infra.kubeflow.orchestrator import RegrowKubeflowOrchestrator

        return RegrowKubeflowOrchestrator


def register_flavor() -> None:
    """Make the flavor known to the ZenML that this process is a client of; nothing happens if it is."""
    client = Client()
    if not client.list_flavors(name=NAME, type=StackComponentType.ORCHESTRATOR).items:
        client.create_flavor(source=SOURCE, component_type=StackComponentType.ORCHESTRATOR)
