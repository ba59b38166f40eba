"""The stages of a stack file as ZenML's settings for the steps of one pipeline.

ZenML lays a step's settings over the component's by whole fields, defaults included: a step that only names resources
loses the component's volumes. So every step gets the component's settings with its stage's laid over them.
"""

from collections.abc import Mapping
from typing import Any

from zenml.enums import StackComponentType
from zenml.models import ComponentResponse, StackResponse
from zenml.utils import source_utils
from zenml.utils.settings_utils import is_stack_component_setting_key, resolve_stack_component_setting_key

from infra.stacks.images import demand_named
from infra.stacks.merging import merge
from infra.stacks.register import kept_values
from infra.stacks.schema import GPU, StackFile, Stage
from infra.stacks.values import sized
from regrow.errors import InputError

# ZenML's section for images.
_DOCKER = "docker"
# Components that run pods, and the class of what a step may set of theirs.
_SETTINGS = {
    (
        StackComponentType.ORCHESTRATOR,
        "kubernetes",
    ): "zenml.integrations.kubernetes.flavors.KubernetesOrchestratorSettings",
    (
        StackComponentType.STEP_OPERATOR,
        "kubernetes",
    ): "zenml.integrations.kubernetes.flavors.KubernetesStepOperatorSettings",
    (StackComponentType.ORCHESTRATOR, "regrow-kubeflow"): "infra.kubeflow.flavor.KubeflowSettings",
}


def configured(
    stack: StackFile,
    registered: StackResponse,
    functions: Mapping[str, str],
    own: dict[str, Any],
    *,
    work: str,
    engines: Mapping[str, str],
) -> dict[str, Any]:
    """Return a run configuration with the stack's settings under its own.

    Args:
        stack: the stack file.
        registered: the stack in ZenML.
        functions: step function by the step's name in the pipeline.
        own: the run configuration as the user wrote it; it wins.
        work: name of the folder where a retried pod finds its unfinished work.
        engines: engine by name of the steps that generate.

    Raises:
        InputError: a step asks for a step operator that the stack has not, or for an image that its values do not name.
    """
    values = kept_values(registered)
    stack, images = sized(stack, values), values.images
    # A run configuration that says how its image is made is not given another one.
    has_own = _DOCKER in own.get("settings", {})
    steps = own.get("steps") or {}
    stages = {
        name: stack.stage(function).with_engine(engines.get(name)) for name, function in functions.items()
    }
    if not has_own:
        theirs = [
            (stages[name].image, function)
            for name, function in functions.items()
            if _DOCKER not in ((steps.get(name) or {}).get("settings") or {})
        ]
        demand_named(registered.name, images, [("base", "the orchestrator"), *theirs])
    docker = {} if has_own else {_DOCKER: _image(images["base"])}
    settings = merge(docker, _by_component(own.get("settings", {}), registered))
    found = {}
    for name, function in functions.items():
        stage = _told(stack, stages[name], images if docker else {}, work)
        step = _step(stack, registered, stage, steps.get(name) or {}, images if docker else None)
        told = {"stage": function} | _held(registered, stage, step)
        found[name] = merge({"extra": {"regrow": told}}, step)
    rest = {name: given for name, given in steps.items() if name not in functions}
    return own | {"settings": settings, "steps": found | rest}


def sized_stage(stack: StackFile, registered: StackResponse, function: str) -> Stage:
    """Return how the steps of a function run, as the site's values have it."""
    return sized(stack, kept_values(registered)).stage(function)


def _step(
    stack: StackFile, registered: StackResponse, stage: Stage, own: dict[str, Any], images: Any
) -> dict[str, Any]:
    chosen = own.get("step_operator", stage.step_operator)
    operator = _operator(registered, chosen)
    orchestrator = registered.components[StackComponentType.ORCHESTRATOR][0]
    settings: dict[str, Any] = {}
    if images is not None and _DOCKER not in (own.get("settings") or {}):
        settings[_DOCKER] = _image(images[stage.image])
    if orchestrator.flavor_name == "kubernetes":
        # With a step operator, the orchestrator's pod only starts and watches the one that works.
        mine = Stage(resources=stack.waiting) if operator else stage
        settings[_key(orchestrator)] = _laid(orchestrator, mine) | {"pod_stop_grace_period": stage.grace}
    elif (orchestrator.type, orchestrator.flavor_name) in _SETTINGS:
        settings[_key(orchestrator)] = _laid(orchestrator, stage)
    if operator:
        # The step operator of ZenML 0.98 has no setting for the grace period: it goes into the pod as it is.
        grace = {
            "pod_settings": {"additional_pod_spec_args": {"termination_grace_period_seconds": stage.grace}}
        }
        settings[_key(operator)] = merge(_laid(operator, stage), grace)
        if stage.pods > 1:
            settings[_key(operator)]["pod_count"] = stage.pods
    step: dict[str, Any] = {"settings": settings}
    if chosen:
        step["step_operator"] = chosen
    if stage.retries:
        step["retry"] = {"max_retries": stage.retries}
    given = own | ({"settings": _by_component(own["settings"], registered)} if own.get("settings") else {})
    return merge(step, given)


def _held(registered: StackResponse, stage: Stage, step: Mapping[str, Any]) -> dict[str, Any]:
    """Return the GPUs and CPUs that all pods of a step hold, for the report of what a run has cost (steps.cost).

    The pod cannot see what it asks for: it may use every core of its node, however few are kept free for it.
    """
    orchestrator = registered.components[StackComponentType.ORCHESTRATOR][0]
    works = _operator(registered, step.get("step_operator")) or orchestrator
    pod = (step["settings"].get(_key(works)) or {}).get("pod_settings") or {}
    resources = pod.get("resources") or stage.resources.pod
    requests, limits = (resources.get(which) or {} for which in ("requests", "limits"))
    held: dict[str, Any] = {"gpus": stage.pods * int(limits.get(GPU) or requests.get(GPU) or 0)}
    # Kubernetes takes the limit for the request where nothing is requested.
    if cpu := requests.get("cpu") or limits.get("cpu"):
        held["cpus"] = stage.pods * _cores(str(cpu))
    return held | ({"pods": stage.pods} if stage.pods > 1 else {})


def _cores(quantity: str) -> float:
    """Return the number of cores that Kubernetes writes as 8, 0.5 or 500m.

    Raises:
        InputError: not such a number.
    """
    try:
        return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)
    except ValueError:
        raise InputError(f"cpu: {quantity!r} is no number of cores; write it as 8, 0.5 or 500m") from None


def _told(stack: StackFile, stage: Stage, images: Mapping[Any, str], work: str) -> Stage:
    """Return a stage whose pods know their image, which statements name, and the folder of unfinished work.

    They go into the pods past ZenML: a step's environment in its sense is part of the step's cache key.
    """
    told = {"REGROW_WORK": f"{stack.cache}/work/{work}"} if stack.cache else {}
    if stage.image in images:
        told["REGROW_IMAGE"] = images[stage.image]
    return stage.model_copy(update={"environment": told | stage.environment})


def _laid(component: ComponentResponse, stage: Stage) -> dict[str, Any]:
    """Return a component's settings with a stage's pod laid over them."""
    pod: dict[str, Any] = {"resources": stage.resources.pod}
    if stage.environment:
        pod["env"] = [{"name": name, "value": value} for name, value in stage.environment.items()]
    if stage.resources.shm:
        # 64 MiB, what a container gets, end NCCL and the workers of data loaders.
        pod |= {
            "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": stage.resources.shm}}],
            "volume_mounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108 - a mount, not a file of ours
        }
    return merge(merge(_settings(component), {"pod_settings": pod}), {"pod_settings": stage.pod})


def _settings(component: ComponentResponse) -> dict[str, Any]:
    """Return what of a component's configuration a step may have otherwise."""
    known = source_utils.load(_SETTINGS[component.type, component.flavor_name]).model_fields
    return {key: value for key, value in component.configuration.items() if key in known}


def _operator(registered: StackResponse, chosen: object) -> ComponentResponse | None:
    if not chosen:
        return None
    there = registered.components.get(StackComponentType.STEP_OPERATOR, [])
    for one in there:
        if chosen is True or one.name == chosen:
            return one if one.flavor_name == "kubernetes" else None
    raise InputError(
        f"step_operator {chosen}: the stack {registered.name} has "
        f"{', '.join(one.name for one in there) or 'none'}"
    )


def _image(reference: str) -> dict[str, Any]:
    # The code is the image's, which its digest names; without these three, ZenML puts this folder's into the pods.
    return {
        "parent_image": reference,
        "skip_build": True,
        "allow_including_files_in_images": False,
        "allow_download_from_code_repository": False,
        "allow_download_from_artifact_store": False,
    }


def _key(component: ComponentResponse) -> str:
    return f"{component.type.value}:{component.name}"


def _by_component(settings: dict[str, Any], registered: StackResponse) -> dict[str, Any]:
    """Return settings with every component under its own name: ZenML refuses two ways to say one."""
    found = {}
    for key, value in settings.items():
        name = key
        if is_stack_component_setting_key(key):
            try:
                name = resolve_stack_component_setting_key(key, registered.components) or key
            except ValueError as error:
                raise InputError(f"settings.{key}: {error}") from None
        found[name] = value
    return found
