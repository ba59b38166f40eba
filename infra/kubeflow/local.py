"""A compiled pipeline, run by Kubeflow's own local runner: every step in a container of this machine's Docker."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from infra.kubeflow.pod import RUN_ID
from regrow.errors import InputError, RegrowError


def run(
    pipeline: Path,
    *,
    secrets: Mapping[str, str] | None = None,
    mounts: Sequence[tuple[Path, str]] = (),
    network: str = "host",
    folder: Path = Path("runs/kubeflow"),
) -> str:
    """Run all steps in turn and return the name of the run (ZenML's orchestrator run id).

    Kubeflow's runner gives a container the image, the command and one set of variables for all steps. What only a
    cluster has (resources, selectors, tolerations, volumes, secrets, retries) is not applied.

    Args:
        pipeline: as `compile` wrote it.
        secrets: the variables that Kubernetes secrets would give the pods.
        mounts: folders of this machine and where containers see them, in the place of a cluster's volumes.
        network: Docker's network for the containers.
        folder: where Kubeflow's runner keeps its files.

    Raises:
        InputError: this is no compiled pipeline.
        RegrowError: a step failed.
    """
    import docker
    from kfp import components
    from kfp import local as kfp_local

    name = f"{pipeline.stem}-{uuid4().hex[:8]}"
    environment = variables(pipeline) | dict(secrets or {}) | {RUN_ID: name}
    kfp_local.init(
        runner=kfp_local.DockerRunner(
            network_mode=network,
            environment=environment,
            mounts=[
                docker.types.Mount(target, str(source.absolute()), type="bind") for source, target in mounts
            ],
            shm_size="1g",
        ),
        pipeline_root=str(folder.absolute()),
    )
    try:
        components.load_component_from_file(str(pipeline))()
    except RuntimeError as error:  # a container that ended with another status than 0
        raise RegrowError(f"{pipeline}: {error}") from error
    return name


def variables(pipeline: Path) -> dict[str, str]:
    """Return the variables of a compiled pipeline's containers.

    Raises:
        InputError: this is no compiled pipeline, or two steps have different values for a variable.
    """
    try:
        spec: dict[str, Any] = next(yaml.safe_load_all(pipeline.read_text(encoding="utf-8")))
        executors = spec["deploymentSpec"]["executors"]
    except (OSError, yaml.YAMLError, StopIteration, KeyError, TypeError) as error:
        raise InputError(f"{pipeline}: no compiled Kubeflow pipeline ({error})") from None
    found: dict[str, str] = {}
    for step, executor in executors.items():
        for one in executor["container"].get("env", []):
            if found.setdefault(one["name"], one["value"]) != one["value"]:
                raise InputError(
                    f"{pipeline}: {step}: {one['name']} differs between steps, and Kubeflow's local runner "
                    "has one value for all: set the same everywhere"
                )
    return found
