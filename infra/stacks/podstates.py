"""The pods of a run that did not end well: why, in words, and those that nobody stopped."""

import logging
from typing import Any
from uuid import UUID

from zenml.client import Client
from zenml.enums import StackComponentType

log = logging.getLogger(__name__)
MEMORY = "was killed for memory"


def troubles(run: UUID) -> dict[str, list[str]]:
    """Return what Kubernetes says of the pods of a run, by step; nothing where it cannot be asked."""
    component = Client().active_stack_model.components[StackComponentType.ORCHESTRATOR][0]
    if component.flavor_name != "kubernetes":
        return {}
    try:
        from kubernetes.client import CoreV1Api

        api = CoreV1Api(Client().active_stack.orchestrator.get_kube_client())
        pods = api.list_namespaced_pod(
            component.configuration["kubernetes_namespace"],
            label_selector=f"run_id={run}",
            _request_timeout=20,
        ).items
    except Exception as error:  # a hint beside an error must not replace the error
        log.warning("the pods of the run cannot be looked at: %s", error)
        return {}
    found: dict[str, list[str]] = {}
    for pod in pods:
        if said := trouble(pod):
            name = (pod.metadata.labels or {}).get("step_name", "orchestrator")
            lines = found.setdefault(name, [])
            if said not in lines:
                lines.append(said)
    return found


def stop_leftovers(run: UUID) -> list[str]:
    """Delete the jobs of an ended run that still work, and return their names.

    ZenML 0.98 stops one job of a step; one with a step operator has two, and the other would go on with its GPU.
    """
    if (namespace := _namespace()) is None:
        return []
    stopped = []
    try:
        from kubernetes.client import BatchV1Api

        api = BatchV1Api(Client().active_stack.orchestrator.get_kube_client())
        for job in api.list_namespaced_job(
            namespace, label_selector=f"run_id={run}", _request_timeout=20
        ).items:
            if job.status.active:
                name = job.metadata.name
                api.delete_namespaced_job(
                    name, namespace, propagation_policy="Background", _request_timeout=20
                )
                stopped.append(name)
    except Exception as error:  # the run's own error is what matters
        log.warning(
            "jobs of the run may still work; kubectl -n %s get jobs -l run_id=%s: %s", namespace, run, error
        )
    return stopped


def _namespace() -> str | None:
    """Return where the active stack runs pods; None where it does not."""
    component = Client().active_stack_model.components[StackComponentType.ORCHESTRATOR][0]
    return component.configuration["kubernetes_namespace"] if component.flavor_name == "kubernetes" else None


def trouble(pod: Any) -> str | None:
    """Say why a pod was killed or does not run; None if there is nothing to say."""
    name = pod.metadata.name
    for container in pod.status.container_statuses or []:
        ended, waiting = container.state.terminated, container.state.waiting
        if ended and ended.reason == "OOMKilled":
            limit = _limits(pod).get("memory", "none")
            return (
                f"the pod {name} {MEMORY} (OOMKilled; its limit: {limit}): raise resources.memory of its "
                "stage, or make the batch or micro batch smaller"
            )
        if waiting and waiting.reason not in (None, "ContainerCreating", "PodInitializing"):
            return f"the pod {name} does not start: {waiting.reason}: {waiting.message or ''}".rstrip(": ")
        if ended and ended.exit_code in (137, 143) and pod.metadata.deletion_timestamp:
            return f"the pod {name} was deleted while it ran"
    if pod.status.reason == "Evicted":
        return f"the pod {name} was evicted: {pod.status.message}"
    for condition in pod.status.conditions or []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return f"the pod {name} has no node: {condition.message}"
    return None


def _limits(pod: Any) -> dict[str, str]:
    resources = pod.spec.containers[0].resources
    return (resources.limits or {}) if resources else {}
