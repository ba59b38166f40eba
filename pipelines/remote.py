"""What is different when the active stack runs steps in pods: what they may read, how they are set, how they fail."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from zenml.client import Client
from zenml.enums import ExecutionStatus, StackComponentType
from zenml.models import PipelineRunResponse, StackResponse
from zenml.orchestrators.publish_utils import publish_failed_pipeline_run
from zenml.pipelines.pipeline_definition import Pipeline
from zenml.steps.command_step import CommandStep

from infra.stacks import launching, reaching, schema
from infra.stacks.podstates import MEMORY, stop_leftovers, troubles
from regrow.errors import GateFailedError, InputError, RegrowError
from regrow.files import canonical_digest
from regrow.selfdata.spec import SelfDataSpec
from regrow.tune import pods as tuning
from regrow.tune.recipe import Recipe

_NEEDS = {
    "kubernetes": ("kubernetes", "kubernetes"),
    "kubeflow": ("kfp", "kubeflow"),
    "regrow-kubeflow": ("kfp", "kubeflow"),
}


def demand_reachable(parameters: BaseModel) -> None:
    """Refuse parameters that name files or servers of this machine, where steps run on others.

    Raises:
        InputError: names the fields.
    """
    registered = Client().active_stack_model
    if _is_remote(registered):
        stack = _file(registered)
        reaching.demand_reachable(parameters, registered.name, stack.cache if stack else None)


def demand_server(name: str | None) -> None:
    """Refuse a stack of pods that could not report to ZenML, or that this environment cannot speak to.

    Raises:
        InputError: says what to install, or to connect to a server.
    """
    registered = Client().active_stack_model
    if not _is_remote(registered):
        return
    for components in registered.components.values():
        for component in components:
            module, extra = _NEEDS.get(component.flavor_name, ("zenml", ""))
            if find_spec(module) is None:
                raise InputError(f"--stack {name} needs the package {module}: pip install 'regrow[{extra}]'")
    if Client().zen_store.is_local_store():
        raise InputError(
            f"--stack {name} runs in pods, which cannot reach ZenML's database on this machine; connect to a "
            "ZenML server (zenml login URL, or ZENML_STORE_URL and ZENML_STORE_API_KEY) and register the stack there"
        )


def with_stages(pipeline: Pipeline, parameters: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return a run configuration with the active stack's settings for each stage under its own.

    Args:
        pipeline: whose steps are set.
        parameters: of the run.
        own: the run configuration as the user wrote it.

    Raises:
        InputError: the two do not fit together.
    """
    registered = Client().active_stack_model
    stack = _file(registered)
    if stack is None or not stack.stages:
        return own
    # The steps that these parameters give, by name; the function says the stage.
    plan = pipeline.copy()
    plan.prepare(**parameters)
    functions = {
        name: one.step.name if isinstance(one.step, CommandStep) else one.step.entrypoint.__name__
        for name, one in plan.invocations.items()
    }
    # The same command finds the unfinished work of its last try, as it does on one machine.
    work = f"{pipeline.name}-{canonical_digest(to_jsonable_python(parameters))[:12]}"
    engines = {
        name: str(given.engine)
        for name, one in plan.invocations.items()
        for given in one.parameters.values()
        if isinstance(given, SelfDataSpec)
    }
    return launching.configured(stack, registered, functions, own, work=work, engines=engines)


def tuning_pods(recipes: Iterable[Recipe]) -> int:
    """Return how many pods of the active stack share the tuning of one model.

    Args:
        recipes: by which the run tunes.

    Raises:
        InputError: several pods cannot train by one of them.
    """
    registered = Client().active_stack_model
    stack = _file(registered)
    if stack is None:
        return 1
    stage = launching.sized_stage(stack, registered, schema.SHARED)
    if stage.pods > 1:
        for recipe in recipes:
            tuning.check(recipe, stage.pods * max(stage.resources.gpus, 1))
    return stage.pods


@contextmanager
def told(pipeline: str) -> Iterator[None]:
    """Turn what ZenML raises about an orchestrator that failed elsewhere into one line; what never started is ended.

    Else an image that could not be pulled would be there one day, and a run start that nobody waits for any more.

    Args:
        pipeline: name of the pipeline that is run inside.
    """
    try:
        yield
    except RuntimeError as error:
        if not _is_remote(Client().active_stack_model):
            raise
        said = [str(error)]
        if (run := _not_started(pipeline)) is not None:
            said += [line for lines in troubles(run).values() for line in lines]
            stop_leftovers(run)
            publish_failed_pipeline_run(run)
        raise RegrowError(f"the run could not be started or watched: {'; '.join(said)}") from error


def _not_started(pipeline: str) -> UUID | None:
    """Return this user's newest run of a pipeline, if none of its steps has begun."""
    runs = Client().list_pipeline_runs(
        pipeline=pipeline, user=Client().active_user.id, sort_by="desc:created", size=1
    )
    waiting = (ExecutionStatus.INITIALIZING, ExecutionStatus.PROVISIONING)
    return next((run.id for run in runs.items if run.status in waiting), None)


def demand_success(run: PipelineRunResponse) -> None:
    """Raise what ended a run elsewhere; on one machine, the step itself has raised it.

    Raises:
        GateFailedError: a gate was not passed.
        RegrowError: a step failed, its pod was killed or never ran.
    """
    if run.status == ExecutionStatus.COMPLETED:
        return
    pods = troubles(run.id)
    stop_leftovers(run.id)
    said = []
    for name, step in run.steps.items():
        if step.status != ExecutionStatus.FAILED:
            continue
        info = step.exception_info
        if info and str(info.source).endswith("GateFailedError"):
            raise GateFailedError(str(info.message))
        of_pods = pods.pop(name, [])
        if any(MEMORY in line for line in of_pods) and (need := step.run_metadata.get("estimated_bytes")):
            of_pods.append(f"estimated need {int(str(need)) / 2**30:.1f} GiB")
        reasons = [info.message if info else None, *of_pods]
        said.append(f"{name}: {'; '.join(filter(None, reasons)) or 'its pod is gone'}")
    said += [f"{name}: {'; '.join(lines)}" for name, lines in pods.items()]
    raise RegrowError(
        f"the run {run.name} is {run.status.value}: {' | '.join(said) or 'see its log in ZenML'}. The same command "
        "goes on from the steps that are finished"
    )


def _is_remote(registered: StackResponse) -> bool:
    orchestrator = registered.components[StackComponentType.ORCHESTRATOR][0]
    return orchestrator.flavor_name not in ("local", "local_docker")


def _file(registered: StackResponse) -> schema.StackFile | None:
    return schema.load(registered.name) if registered.name in schema.names() else None
