"""ZenML's Kubeflow orchestrator, three of whose doors lead elsewhere.

A step's settings go onto its task through `tasks.dress`; no credential enters the compiled pipeline; and the
compiled pipeline can be kept in a file instead of being sent to a server.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

from kfp.dsl import PipelineTask
from zenml.config.step_configurations import Step
from zenml.integrations.kubeflow.orchestrators import KubeflowOrchestrator
from zenml.integrations.kubernetes.pod_settings import KubernetesPodSettings

from infra.kubeflow.flavor import KubeflowSettings
from infra.kubeflow.pod import Shared
from infra.kubeflow.tasks import dress
from regrow.errors import InputError

# Names of variables that would let whoever reads the compiled pipeline in.
CREDENTIALS = ("ZENML_STORE_API_TOKEN", "ZENML_STORE_API_KEY", "ZENML_STORE_PASSWORD")
_LOGIN = ("ZENML_STORE_API_KEY", "ZENML_STORE_API_TOKEN")
_file: ContextVar[Path | None] = ContextVar("compiled_pipeline", default=None)


@contextmanager
def kept_in(path: Path) -> Iterator[None]:
    """Within this block, pipelines are compiled into `path` and not sent to Kubeflow."""
    token = _file.set(path)
    try:
        yield
    finally:
        _file.reset(token)


class RegrowKubeflowOrchestrator(Shared, KubeflowOrchestrator):
    """The flavor `regrow-kubeflow`, where kfp is installed."""

    _steps: dict[str, Step]

    def get_settings(self, container: Any) -> KubeflowSettings:
        """Return the settings; a step's without its pod's, which ZenML would say it ignores."""
        settings = cast(KubeflowSettings, super().get_settings(container))
        if isinstance(container, Step):
            return settings.model_copy(update={"pod_settings": None})
        return settings

    def submit_pipeline(
        self,
        snapshot: Any,
        stack: Any,
        base_environment: Any,
        step_environments: Any,
        placeholder_run: Any = None,
    ) -> Any:
        """Compile the pipeline, without credentials, and submit it.

        Raises:
            InputError: the pods could not log in to ZenML, or a setting cannot be said to Kubeflow.
        """
        self._steps = dict(snapshot.step_configurations)
        clean = {
            name: {key: value for key, value in variables.items() if key not in CREDENTIALS}
            for name, variables in step_environments.items()
        }
        for name, step in self._steps.items():
            if len(clean[name]) < len(step_environments[name]):
                self._check_login(name, step)
        return super().submit_pipeline(snapshot, stack, base_environment, clean, placeholder_run)

    def _check_login(self, name: str, step: Step) -> None:
        pod, settings = self._pod(step)
        given = {*settings.secrets, *(one["name"] for one in pod.env)}
        if not given.intersection(_LOGIN):
            raise InputError(
                f"step {name}: its pod could not log in to ZenML: no token is written into the compiled pipeline. Put "
                "the API key of a service account into a Kubernetes secret and name it in the orchestrator's "
                "`secrets: {ZENML_STORE_API_KEY: <secret>/<key>}`"
            )

    def _pod(self, step: Step) -> tuple[KubernetesPodSettings, KubeflowSettings]:
        settings = cast(KubeflowSettings, super().get_settings(step))
        return settings.pod_settings or KubernetesPodSettings(), settings

    def _configure_container_resources(
        self, dynamic_component: PipelineTask, resource_settings: Any, node_selector_constraint: Any = None
    ) -> PipelineTask:
        # In the place of ZenML's, which fails on memory and knows only the selector `accelerator`.
        name = dynamic_component._task_spec.display_name
        step = self._steps[name]
        pod, settings = self._pod(step)
        dress(dynamic_component, name, pod, resource_settings, step.config.retry, settings.secrets)
        return dynamic_component

    def _upload_and_run_pipeline(self, snapshot: Any, pipeline_file_path: str, run_name: str) -> Any:
        if path := _file.get():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pipeline_file_path, path)
            return None
        return super()._upload_and_run_pipeline(snapshot, pipeline_file_path, run_name)
