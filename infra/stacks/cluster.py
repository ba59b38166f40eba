"""Whether a cluster has what a stack's pods need."""

from collections.abc import Iterator, Mapping
from typing import Any

from zenml.enums import StackComponentType
from zenml.models import ComponentResponse, StackResponse

from infra.stacks.findings import Finding, missing, note, ok
from infra.stacks.schema import GPU, StackFile

# Verb, API group and resource.
Right = tuple[str, str, str]
_SECONDS = 10
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_APPLY = "kubectl apply -k infra/kubernetes/overlays/..."
_BIND = f"{_APPLY}, and bind the role regrow-submitter to people"
# What ZenML does there: as the person who starts a run, in the orchestrator's pod, in a step's pod.
_CLIENT = (
    ("create", "batch", "jobs"),
    ("get", "batch", "jobs"),
    # What still works of a failed run is found and deleted (podstates).
    ("list", "batch", "jobs"),
    ("delete", "batch", "jobs"),
    ("list", "", "pods"),
    ("get", "", "pods/log"),
)
# The run's token, with `pass_zenml_token_as_secret`: the client makes it, the orchestrator removes it.
_CLIENT_TOKEN = (("create", "", "secrets"), ("patch", "", "secrets"), ("delete", "", "secrets"))
_ORCHESTRATOR_TOKEN = (("delete", "", "secrets"),)
# By which the pods of one training find each other.
_STEP_PODS = (("create", "", "services"),)
# Kubeflow makes the pods itself; the client reaches its server through the API server's proxy.
_KUBEFLOW_CLIENT = (("get", "", "services/proxy"), ("create", "", "services/proxy"))
_ORCHESTRATOR = (
    ("create", "batch", "jobs"), ("get", "batch", "jobs"), ("list", "batch", "jobs"), ("patch", "batch", "jobs"),
    ("delete", "batch", "jobs"), ("get", "", "pods"), ("list", "", "pods"),
)  # fmt: skip
_STEP = (("create", "batch", "jobs"), ("list", "batch", "jobs"), ("delete", "batch", "jobs"))


def look(stack: StackFile, registered: StackResponse) -> Iterator[Finding]:
    """Ask the cluster's API for everything that the stack's components name."""
    orchestrator = registered.components[StackComponentType.ORCHESTRATOR][0]
    operators = registered.components.get(StackComponentType.STEP_OPERATOR, [])
    settings = orchestrator.configuration
    context = settings.get("kubernetes_context")
    kubeflow = settings.get("kubeflow_namespace")
    if context is None and (host := settings.get("kubeflow_hostname")):
        yield note(
            "cluster",
            f"reached by way of {host} alone: rights, claims, secrets, quota and GPUs cannot be looked at without a "
            "kubernetes_context",
        )
        return
    try:
        from kubernetes import client, config

        api = config.new_client_from_config(context=context)
        version = client.VersionApi(api).get_code(_request_timeout=_SECONDS).git_version
    except Exception as error:
        said = str(error).strip().splitlines()
        yield missing(
            "cluster", f"the kubeconfig's context {context} reaches no cluster: {said[0][:200] if said else ''}",
            "see KUBECONFIG and kubectl config get-contexts",
        )  # fmt: skip
        return
    yield ok("cluster", f"Kubernetes {version} answers to the context {context}")
    # Kubeflow runs the pipelines of a profile in the profile's namespace.
    where = settings.get("kubernetes_namespace") or settings.get("user_namespace") or kubeflow
    for one in operators:
        if (other := one.configuration.get("kubernetes_namespace")) != where:
            yield missing(
                "cluster",
                f"the step operator {one.name} uses the namespace {other}, the orchestrator {where}",
                "name one in the values",
            )
    yield from _namespace(client, api, str(where), orchestrator, operators)
    yield from _secrets(client.CoreV1Api(api), str(where), settings.get("secrets") or {})
    if kubeflow:
        yield from _yours(client, api, kubeflow, _KUBEFLOW_CLIENT)
    else:
        token = bool(settings.get("pass_zenml_token_as_secret"))
        yield from _yours(client, api, str(where), _CLIENT + (_CLIENT_TOKEN if token else ()))
        several = any(stage.pods > 1 for stage in stack.stages.values())
        needs = {
            "service_account_name": _ORCHESTRATOR + (_ORCHESTRATOR_TOKEN if token else ()),
            "step_pod_service_account_name": _STEP + (_STEP_PODS if several else ()),
        }
        yield from _accounts(client, api, str(where), settings, needs)
    yield from _gpus(client, api, stack, orchestrator, operators)
    yield from _quota(client.CoreV1Api(api), str(where), stack)


def _namespace(
    client: Any,
    api: Any,
    where: str,
    orchestrator: ComponentResponse,
    operators: list[ComponentResponse],
) -> Iterator[Finding]:
    core = client.CoreV1Api(api)
    yield _there(
        "namespace", f"the namespace {where}", lambda: core.read_namespace(where, _request_timeout=_SECONDS)
    )
    settings = [one.configuration for one in (orchestrator, *operators)]
    accounts = {
        one[key]
        for one in settings
        for key in ("service_account_name", "step_pod_service_account_name")
        if one.get(key)
    }
    for name in sorted(accounts):
        yield _there(
            "service_accounts", f"the service account {name}",
            lambda name=name: core.read_namespaced_service_account(name, where, _request_timeout=_SECONDS),
        )  # fmt: skip
    remedy = (
        "docs/kubeflow.md, section The cache" if orchestrator.flavor_name == "regrow-kubeflow" else _APPLY
    )
    for name in sorted({claim for one in settings for claim in _claims(one)}):
        yield _claim(client, api, where, name, remedy)


def _claims(configuration: dict[str, Any]) -> Iterator[str]:
    for key in ("pod_settings", "orchestrator_pod_settings"):
        for volume in (configuration.get(key) or {}).get("volumes", []):
            if claim := volume.get("persistentVolumeClaim"):
                yield claim["claimName"]


def _claim(client: Any, api: Any, where: str, name: str, remedy: str) -> Finding:
    """Say whether a volume claim has its volume, or can get one."""
    core, found = client.CoreV1Api(api), []

    def read() -> Any:
        found.append(core.read_namespaced_persistent_volume_claim(name, where, _request_timeout=_SECONDS))
        return found[0]

    said = _there("volumes", f"the volume claim {name}", read, remedy)
    if not found or found[0].status.phase == "Bound":
        return said
    phase = found[0].status.phase
    # None: the cluster's default class. An empty name: no class, so a volume that somebody makes by hand.
    if found[0].spec.storage_class_name is None and not found[0].spec.volume_name:
        try:
            classes = client.StorageV1Api(api).list_storage_class(_request_timeout=_SECONDS).items
        except client.ApiException as error:
            return note(
                "volumes",
                f"the volume claim {name} is {phase} and names no class; whether the cluster has a default one "
                f"may not be looked at ({error.reason})",
            )
        if not any((one.metadata.annotations or {}).get(_DEFAULT_CLASS) == "true" for one in classes):
            named = ", ".join(sorted(one.metadata.name for one in classes)) or "none"
            return missing(
                "volumes",
                f"the volume claim {name} is {phase}: it names no class, and the cluster has no default one; it has "
                f"{named}",
                'name the class in an overlay (docs/kubernetes.md, "The cache"), delete the claim and apply it again',
            )
    # A claim whose class waits for the first pod is fine.
    return note(
        "volumes", f"the volume claim {name} is {phase}: bound by its first pod, or no volume fits it"
    )


def _there(what: str, named: str, read: Any, remedy: str = _APPLY) -> Finding:
    from kubernetes.client import ApiException

    try:
        read()
    except ApiException as error:
        if error.status == 404:
            return missing(what, f"{named} is not there", remedy)
        return note(what, f"{named} may not be looked at ({error.reason})")
    return ok(what, f"{named} is there")


def _secrets(core: Any, where: str, named: Mapping[str, str]) -> Iterator[Finding]:
    """Look for the Kubernetes secrets of variables that a pod would not start without."""
    wanted: dict[str, set[str]] = {}
    for place in named.values():
        name, _, key = place.partition("/")
        wanted.setdefault(name, set()).add(key)
    for name, keys in sorted(wanted.items()):
        found: list[Any] = []
        remedy = f"kubectl -n {where} create secret generic {name} --from-file={min(keys)}=FILE; see docs/kubeflow.md"
        said = _there(
            "pod_secrets", f"the secret {name}",
            lambda name=name, found=found: found.append(
                core.read_namespaced_secret(name, where, _request_timeout=_SECONDS)
            ),
            remedy,
        )  # fmt: skip
        lacking = sorted(keys - set(found[0].data or {})) if found else []
        yield (
            missing("pod_secrets", f"the secret {name} has no {', '.join(lacking)}", remedy)
            if lacking
            else said
        )


def _yours(client: Any, api: Any, where: str, needed: tuple[Right, ...]) -> Iterator[Finding]:
    reviews = client.AuthorizationV1Api(api)
    lacking = []
    for verb, group, resource in needed:
        kind, _, sub = resource.partition("/")
        attributes = client.V1ResourceAttributes(
            verb=verb, group=group, resource=kind, subresource=sub or None, namespace=where
        )
        review = client.V1SelfSubjectAccessReview(
            spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes)
        )
        if not reviews.create_self_subject_access_review(review, _request_timeout=_SECONDS).status.allowed:
            lacking.append(f"{verb} {resource}")
    remedy = "bind a role with these rights to you" if needed == _KUBEFLOW_CLIENT else _BIND
    yield _said("rights", "you", lacking, remedy)


def _accounts(
    client: Any, api: Any, where: str, settings: Mapping[str, Any], needs: Mapping[str, tuple[Right, ...]]
) -> Iterator[Finding]:
    reviews = client.AuthorizationV1Api(api)
    for key, needed in needs.items():
        if name := settings.get(key):
            yield _account(client, reviews, where, name, needed)


def _account(client: Any, reviews: Any, where: str, name: str, needed: tuple[Right, ...]) -> Finding:
    lacking = []
    for verb, group, resource in needed:
        attributes = client.V1ResourceAttributes(verb=verb, group=group, resource=resource, namespace=where)
        # The groups that the API server gives a pod's token.
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{where}", "system:authenticated"]
        spec = client.V1SubjectAccessReviewSpec(
            user=f"system:serviceaccount:{where}:{name}", groups=groups, resource_attributes=attributes
        )
        review = client.V1LocalSubjectAccessReview(metadata=client.V1ObjectMeta(namespace=where), spec=spec)
        try:
            answer = reviews.create_namespaced_local_subject_access_review(
                where, review, _request_timeout=_SECONDS
            )
        except client.ApiException as error:
            return note("rights", f"what the service account {name} may do cannot be asked ({error.reason})")
        if not answer.status.allowed:
            lacking.append(f"{verb} {resource}")
    return _said("rights", f"the service account {name}", lacking)


def _said(what: str, who: str, lacking: list[str], remedy: str = _BIND) -> Finding:
    if lacking:
        return missing(
            what,
            f"{who} may not: {', '.join(lacking)}",
            remedy,
        )
    return ok(what, f"{who} may do what ZenML does there")


def _gpus(
    client: Any,
    api: Any,
    stack: StackFile,
    orchestrator: ComponentResponse,
    operators: list[ComponentResponse],
) -> Iterator[Finding]:
    named = {one.name: one for one in operators}
    # The most that a stage asks for, by who runs it and where.
    asked: dict[tuple[str, str], int] = {}
    for stage in stack.stages.values():
        operator = named.get(stage.step_operator or "")
        who = f"step operator {operator.name}" if operator else "the orchestrator"
        pod = (operator or orchestrator).configuration.get("pod_settings") or {}
        selector = (pod.get("node_selectors") or {}) | stage.pod.get("node_selectors", {})
        key = who, ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
        asked[key] = max(asked.get(key, 0), stage.resources.gpus)
    for (who, selector), most in asked.items():
        if most:
            yield _nodes(client, api, who, selector, most)


def _nodes(client: Any, api: Any, who: str, selector: str, most: int) -> Finding:
    try:
        nodes = client.CoreV1Api(api).list_node(label_selector=selector, _request_timeout=_SECONDS).items
    except client.ApiException as error:
        return note("gpus", f"nodes may not be looked at ({error.reason})")
    best = max((int((node.status.allocatable or {}).get(GPU, 0)) for node in nodes), default=0)
    said = f"{who}: stages ask for {most} {GPU}; {len(nodes)} nodes with {selector or 'any label'}"
    if best >= most:
        return ok("gpus", f"{said}, {best} on the best")
    if not nodes and _autoscaler(client, api):
        return note("gpus", f"{said} now; the cluster has an autoscaler, which must know a pool for them")
    return missing(
        "gpus",
        f"{said}, {best} on the best: its pods would wait for ever",
        "label GPU nodes and install the device plugin, or mend node_selectors",
    )


def _autoscaler(client: Any, api: Any) -> bool:
    try:
        found = (
            client.AppsV1Api(api).list_namespaced_deployment("kube-system", _request_timeout=_SECONDS).items
        )
    except client.ApiException:
        return False
    return any(word in one.metadata.name for one in found for word in ("autoscaler", "karpenter"))


def _quota(core: Any, where: str, stack: StackFile) -> Iterator[Finding]:
    from kubernetes.client import ApiException
    from kubernetes.utils import parse_quantity

    try:
        quotas = core.list_namespaced_resource_quota(where, _request_timeout=_SECONDS).items
    except ApiException as error:
        yield note("quota", f"the quota may not be looked at ({error.reason})")
        return
    if not quotas:
        yield note("quota", f"the namespace {where} has no quota: a run may take all of the cluster")
    largest: dict[str, str] = {}
    for stage in stack.stages.values():
        for key, value in stage.resources.pod.get("requests", {}).items():
            largest[key] = max(largest.get(key, "0"), value, key=parse_quantity)
    for quota in quotas:
        hard = quota.status.hard or {}
        short = [
            f"{key} {hard[f'requests.{key}']} < {value}"
            for key, value in sorted(largest.items())
            if f"requests.{key}" in hard and parse_quantity(hard[f"requests.{key}"]) < parse_quantity(value)
        ]
        if short:
            yield missing(
                "quota",
                f"{quota.metadata.name} is smaller than one pod of the largest stage: {', '.join(short)}",
                "raise the quota, or the stages' resources",
            )
        else:
            yield ok("quota", f"{quota.metadata.name} has room for the largest stage")
