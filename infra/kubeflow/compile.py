"""The compress pipeline as Kubeflow's own YAML, without a Kubeflow server."""

import os
import tempfile
from pathlib import Path
from uuid import uuid4

import yaml
from zenml import Model
from zenml.client import Client
from zenml.config.pipeline_run_configuration import PipelineRunConfiguration
from zenml.execution.pipeline.utils import submit_pipeline

from infra.kubeflow.orchestrator import RegrowKubeflowOrchestrator, kept_in
from pipelines import remote
from pipelines.launch import use_stack
from regrow.config import CompressConfig, read_config
from regrow.errors import InputError, RegrowError
from regrow.parsing import parse


def compile_pipeline(config: Path, out: Path, *, stack: str) -> Path:
    """Write the compiled pipeline of a run configuration to `out`.

    ZenML keeps a snapshot of the pipeline, which the compiled steps name: any number of Kubeflow runs may be made
    of the file, and each becomes a ZenML run.

    Args:
        config: a ZenML run configuration with regrow's parameters.
        out: the YAML file.
        stack: a registered ZenML stack with an orchestrator of the flavor `regrow-kubeflow`.

    Raises:
        InputError: the configuration or the stack cannot be used.
        RegrowError: ZenML compiled nothing.
    """
    parameters, whole = read_config(config, CompressConfig)
    settings = {key: value for key, value in whole.items() if key != "parameters"}
    parse(PipelineRunConfiguration, settings, str(config))
    use_stack(stack)
    remote.demand_reachable(parameters)
    parameters = parameters.pinned()
    active = Client().active_stack
    if not isinstance(active.orchestrator, RegrowKubeflowOrchestrator):
        raise InputError(
            f"--stack {stack}: its orchestrator has the flavor {active.orchestrator.flavor!r}; "
            "regrow-kubeflow is needed to compile for Kubeflow"
        )
    # Only now: the steps are resolved against the repository that has just been made sure of.
    from pipelines.compress import compress

    fields = {name: getattr(parameters, name) for name in type(parameters).model_fields}
    settings = remote.with_stages(compress, fields, settings)
    # The whole pipeline, also where ZenML's cache has some of its steps.
    os.environ["ZENML_PREVENT_CLIENT_SIDE_CACHING"] = "true"
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "run.yaml"
        own.write_text(yaml.safe_dump(settings), encoding="utf-8")
        prepared = compress.with_options(
            config_path=str(own), model=Model(name=parameters.registry.name, tags=["regrow"])
        )
        prepared.prepare(**fields)
        snapshot = prepared.create_snapshot(name=f"kubeflow-{out.stem}-{uuid4().hex[:8]}")
    out.unlink(missing_ok=True)
    with kept_in(out):
        submit_pipeline(snapshot=snapshot, stack=active)
    if not out.is_file():
        raise RegrowError("ZenML compiled no pipeline; see its log above")
    return out
