"""A step's pod settings, put onto its task of a Kubeflow pipeline."""

import logging
import math
from collections.abc import Mapping

from kfp import kubernetes
from kfp.dsl import PipelineTask
from zenml.config.resource_settings import ByteUnit, ResourceSettings
from zenml.config.retry_config import StepRetryConfig
from zenml.integrations.kubernetes.pod_settings import KubernetesPodSettings

from regrow.errors import InputError

log = logging.getLogger(__name__)

GPU = "nvidia.com/gpu"
# Fields of a pod that Kubeflow's compiled form has no place for; the cluster's defaults stand for them.
_NO_PLACE = ("host_ipc", "scheduler_name")
# What Kubeflow gives every container itself.
_GIVEN = {"allowPrivilegeEscalation", "capabilities", "seccompProfile"}
_USER = {"runAsUser": "run_as_user", "runAsGroup": "run_as_group", "runAsNonRoot": "run_as_non_root"}


def dress(
    task: PipelineTask,
    name: str,
    pod: KubernetesPodSettings,
    resources: ResourceSettings,
    retry: StepRetryConfig | None,
    secrets: Mapping[str, str],
) -> None:
    """Give the task resources, node selectors, tolerations, volumes, secrets, labels and retries.

    What a compiled pipeline cannot hold (ephemeral storage, priority, grace, ...) is named in a warning.

    Args:
        task: of the pipeline that is being compiled.
        name: of the step, for messages.
        pod: Kubernetes' words; they win over `resources`.
        resources: ZenML's words.
        retry: how often the step's pod is started again.
        secrets: environment variable -> `<secret>/<key>`.

    Raises:
        InputError: something that the step would not run without cannot be said to Kubeflow.
    """
    try:
        left_out = _resources(task, name, _plain(resources) | _wanted(pod), pod)
        for key, value in pod.node_selectors.items():
            kubernetes.add_node_selector(task, key, value)
        for one in pod.tolerations:
            kubernetes.add_toleration(
                task, one.get("key"), one.get("operator"), one.get("value"), one.get("effect"),
                one.get("tolerationSeconds"),
            )  # fmt: skip
        for key, value in pod.labels.items():
            kubernetes.add_pod_label(task, key, value)
        for key, value in pod.annotations.items():
            kubernetes.add_pod_annotation(task, key, value)
        if pod.image_pull_secrets:
            kubernetes.set_image_pull_secrets(task, pod.image_pull_secrets)
        _volumes(task, name, pod)
        _environment(task, name, pod, secrets)
        left_out += _affinity(task, pod) + _user(task, pod)
        if retry:
            task.set_retry(
                retry.max_retries,
                backoff_duration=f"{retry.delay}s",
                backoff_factor=float(retry.backoff or 1),
            )
    except ValueError as error:  # kfp's own checks
        raise InputError(f"step {name}: settings of its pod: {error}") from None
    left_out += [field for field in _NO_PLACE if getattr(pod, field)]
    if left_out:
        log.warning("step %s: Kubeflow Pipelines cannot say %s; left out", name, ", ".join(left_out))


def _plain(settings: ResourceSettings) -> dict[str, dict[str, str]]:
    """Return ZenML's own resource settings in Kubernetes' words."""
    found: dict[str, str] = {}
    if settings.cpu_count:
        found["cpu"] = f"{settings.cpu_count:g}"
    if memory := settings.get_memory(unit=ByteUnit.MIB):
        found["memory"] = f"{math.ceil(memory)}Mi"
    if settings.gpu_count:
        found[GPU] = str(settings.gpu_count)
    return {"limits": found} if found else {}


def _wanted(pod: KubernetesPodSettings) -> dict[str, dict[str, str]]:
    return {kind: {key: str(value) for key, value in some.items()} for kind, some in pod.resources.items()}


def _resources(
    task: PipelineTask, name: str, wanted: Mapping[str, Mapping[str, str]], pod: KubernetesPodSettings
) -> list[str]:
    requests, limits = wanted.get("requests", {}), wanted.get("limits", {})
    setters = {
        "cpu": (task.set_cpu_request, task.set_cpu_limit),
        "memory": (task.set_memory_request, task.set_memory_limit),
    }
    for resource, (request, limit) in setters.items():
        if resource in requests:
            request(requests[resource])
        if resource in limits:
            limit(limits[resource])
    # Kubernetes wants the two to be the same for devices.
    devices = {
        key: count
        for some in (requests, limits)
        for key, count in some.items()
        if "/" in key and count != "0"
    }
    if len(devices) > 1:
        raise InputError(
            f"step {name}: Kubeflow takes one kind of device for a step, not {', '.join(devices)}"
        )
    for device, count in devices.items():
        task.set_accelerator_type(device).set_accelerator_limit(count)
    known = {*setters, *devices}
    return sorted(
        {f"resources.{key}" for some in (requests, limits) for key in some}
        - {f"resources.{key}" for key in known}
    )


def _volumes(task: PipelineTask, name: str, pod: KubernetesPodSettings) -> None:
    volumes = {volume["name"]: volume for volume in pod.volumes}
    for mount in pod.volume_mounts:
        volume, path = volumes.get(mount["name"]), mount["mountPath"]
        match volume:
            case {"emptyDir": empty}:
                empty = empty or {}
                kubernetes.empty_dir_mount(
                    task, mount["name"], path, empty.get("medium"), empty.get("sizeLimit")
                )
            case {"persistentVolumeClaim": {"claimName": claim}}:
                kubernetes.mount_pvc(task, claim, path, mount.get("subPath") or "")
            case {"secret": {"secretName": secret}}:
                kubernetes.use_secret_as_volume(task, secret, path)
            case {"configMap": {"name": config_map}}:
                kubernetes.use_config_map_as_volume(task, config_map, path)
            case _:
                raise InputError(
                    f"step {name}: Kubeflow cannot mount the volume {mount['name']!r} at {path}: "
                    "use an emptyDir, a persistentVolumeClaim, a secret or a configMap"
                )


def _environment(
    task: PipelineTask, name: str, pod: KubernetesPodSettings, secrets: Mapping[str, str]
) -> None:
    if pod.env_from:
        raise InputError(
            f"step {name}: Kubeflow has no env_from: name the variables one by one in env or secrets"
        )
    for one in pod.env:
        match one:
            case {"valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}:
                kubernetes.use_secret_as_env(task, secret, {key: one["name"]})
            case {"valueFrom": {"configMapKeyRef": {"name": config_map, "key": key}}}:
                kubernetes.use_config_map_as_env(task, config_map, {key: one["name"]})
            case {"valueFrom": {"fieldRef": {"fieldPath": field}}}:
                kubernetes.use_field_path_as_env(task, one["name"], field)
            case {"valueFrom": _}:
                raise InputError(
                    f"step {name}: env {one['name']}: Kubeflow cannot take it from {one['valueFrom']}"
                )
            case _:
                task.set_env_variable(one["name"], str(one.get("value", "")))
    for variable, place in secrets.items():
        secret, _, key = place.partition("/")
        kubernetes.use_secret_as_env(task, secret, {key: variable})


def _affinity(task: PipelineTask, pod: KubernetesPodSettings) -> list[str]:
    affinity = dict(pod.affinity)
    if node := affinity.pop("nodeAffinity", None):
        kubernetes.add_node_affinity_json(task, node)
    return [f"affinity.{kind}" for kind in affinity]


def _user(task: PipelineTask, pod: KubernetesPodSettings) -> list[str]:
    """Set who the container runs as and for how long; return the rest."""
    spec = dict(pod.additional_pod_spec_args)
    security = {**spec.pop("security_context", {}), **pod.container_security_context}
    user = {_USER[key]: value for key, value in security.items() if key in _USER}
    if user:
        kubernetes.set_security_context(task, **user)
    if seconds := spec.pop("active_deadline_seconds", None):
        kubernetes.set_timeout(task, seconds)
    rest = sorted(set(security) - set(_USER) - _GIVEN)
    return [*(f"security_context.{key}" for key in rest), *(f"pod.{key}" for key in spec)]
