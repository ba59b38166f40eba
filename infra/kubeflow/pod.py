"""What a step asks its orchestrator for while it runs: which run this is."""

import os
from typing import Any

from zenml.enums import ExecutionMode
from zenml.orchestrators import ContainerizedOrchestrator

from infra.kubeflow.flavor import KubeflowSettings
from regrow.errors import InputError

RUN_ID = "KFP_RUN_ID"  # set in every step's container to the name of Kubeflow's run


class Shared:
    """What is the same where a pipeline is submitted and where its steps run; ZenML asks for it in both places."""

    @property
    def settings_class(self) -> type[KubeflowSettings]:
        """The class of its settings."""
        return KubeflowSettings

    @property
    def supported_execution_modes(self) -> list[ExecutionMode]:
        """All of them; what fails fast does no more than Kubeflow: nothing new starts, what runs ends by itself."""
        return list(ExecutionMode)


class InsidePod(Shared, ContainerizedOrchestrator):
    """The orchestrator as it is seen from a step's container, without Kubeflow's packages."""

    def get_orchestrator_run_id(self) -> str:
        """Return the name of Kubeflow's run.

        Raises:
            InputError: this is no pod of such a run.
        """
        try:
            return os.environ[RUN_ID]
        except KeyError:
            raise InputError(f"{RUN_ID} is not set: this is no step of a Kubeflow pipeline") from None

    def submit_pipeline(self, *_arguments: Any, **_options: Any) -> Any:
        """Refuse: a pipeline is submitted from where kfp is installed.

        Raises:
            InputError: always.
        """
        raise InputError(
            "submitting to Kubeflow needs its packages: pip install 'regrow[kubeflow]', in an environment of its own"
        )
