"""Who may do what in the namespace `regrow`: asked from the API server's authorizer, and tried with tokens."""

import uuid

import pytest
from kubernetes import client
from kubernetes.client.exceptions import ApiException

from tests.cluster.prepared import NAMESPACE, Prepared, pod
from tests.cluster.running import wait_for
from tests.infra.test_zenml_pods import documented, job

pytestmark = pytest.mark.cluster
ACCOUNTS = ("regrow-orchestrator", "regrow-step", "regrow-builder", "mlflow", "zenml", "default")
# All that an account may do. The rest of VERBS on RESOURCES it may not.
MAY = {
    "regrow-orchestrator": {
        "jobs": {"get", "list", "create", "patch", "delete"},
        "jobs/finalizers": {"update"},
        "pods": {"get", "list"},
        "secrets": {"delete"},
    },
    "regrow-step": {"jobs": {"create", "list", "delete"}, "services": {"create"}},
}
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
RESOURCES = {
    "jobs": "batch",
    "jobs/finalizers": "batch",
    "cronjobs": "batch",
    "pods": "",
    "pods/log": "",
    "pods/exec": "",
    "pods/attach": "",
    "pods/portforward": "",
    "pods/ephemeralcontainers": "",
    "pods/eviction": "",
    "secrets": "",
    "configmaps": "",
    "services": "",
    "endpoints": "",
    "events": "",
    "serviceaccounts": "",
    "serviceaccounts/token": "",
    "persistentvolumeclaims": "",
    "resourcequotas": "",
    "limitranges": "",
    "deployments": "apps",
    "statefulsets": "apps",
    "networkpolicies": "networking.k8s.io",
    "roles": "rbac.authorization.k8s.io",
    "rolebindings": "rbac.authorization.k8s.io",
}


@pytest.fixture(scope="module")
def prepared(cluster) -> Prepared:
    return Prepared(cluster)


@pytest.mark.parametrize("account", ACCOUNTS)
def test_an_account_may_do_what_it_needs_and_nothing_else(prepared, account):
    found = {
        resource: {verb for verb in VERBS if prepared.may(account, verb, resource, group=group)}
        for resource, group in RESOURCES.items()
    }
    assert {resource: verbs for resource, verbs in found.items() if verbs} == MAY.get(account, {})


@pytest.mark.parametrize("account", ACCOUNTS)
def test_no_account_reaches_out_of_the_namespace_or_above_itself(prepared, account):
    rbac = "rbac.authorization.k8s.io"
    for namespace in ("default", "kube-system"):
        for verb, resource, group in (
            ("get", "secrets", ""), ("list", "secrets", ""), ("create", "pods", ""), ("create", "pods/exec", ""),
            ("list", "pods", ""), ("create", "jobs", "batch"), ("delete", "jobs", "batch"),
            ("get", "configmaps", ""),
        ):  # fmt: skip
            assert not prepared.may(account, verb, resource, namespace=namespace, group=group), (
                verb,
                resource,
            )
    for verb, resource, group in (
        ("delete", "namespaces", ""), ("patch", "namespaces", ""), ("create", "namespaces", ""),
        ("list", "nodes", ""), ("patch", "nodes", ""), ("get", "nodes/proxy", ""),
        ("list", "secrets", ""), ("list", "pods", ""), ("create", "persistentvolumes", ""),
        ("create", "clusterroles", rbac), ("create", "clusterrolebindings", rbac),
        ("escalate", "clusterroles", rbac), ("bind", "clusterroles", rbac),
        ("impersonate", "users", ""), ("impersonate", "groups", ""), ("impersonate", "serviceaccounts", ""),
        ("create", "priorityclasses", "scheduling.k8s.io"),
        ("approve", "certificatesigningrequests", "certificates.k8s.io"),
    ):  # fmt: skip
        assert not prepared.may(account, verb, resource, namespace="", group=group), (verb, resource)
    for verb, resource in (("escalate", "roles"), ("bind", "roles")):
        assert not prepared.may(account, verb, resource, group=rbac)
    assert not prepared.may(account, "impersonate", "serviceaccounts")


def test_a_step_makes_zenmls_job_and_can_not_make_itself_an_administrator(prepared):
    """With the account's own token, against the API server, which keeps nothing of it."""
    api = prepared.api_of("regrow-step")
    made = client.BatchV1Api(api).create_namespaced_job(NAMESPACE, job(documented()), dry_run="All")
    # ZenML writes some keys in Python's spelling beside the right ones; the server drops them.
    security = made.spec.template.spec.containers[0].security_context
    assert security.allow_privilege_escalation is False and security.capabilities.drop == ["ALL"]
    assert made.spec.template.spec.security_context.run_as_non_root is True
    assert made.spec.template.spec.service_account_name == "regrow-step"

    refused = {
        "secrets here": lambda: client.CoreV1Api(api).list_namespaced_secret(NAMESPACE),
        "secrets elsewhere": lambda: client.CoreV1Api(api).list_namespaced_secret("kube-system"),
        "a cluster role": lambda: client.RbacAuthorizationV1Api(api).create_cluster_role(
            {"metadata": {"name": "regrow-more"}, "rules": []}, dry_run="All"
        ),
        "a binding to admin": lambda: client.RbacAuthorizationV1Api(api).create_cluster_role_binding(
            {
                "metadata": {"name": "regrow-more"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
                "subjects": [{"kind": "ServiceAccount", "name": "regrow-step", "namespace": NAMESPACE}],
            },
            dry_run="All",
        ),
        "the namespace": lambda: client.CoreV1Api(api).delete_namespace(NAMESPACE, dry_run="All"),
        "a job elsewhere": lambda: client.BatchV1Api(api).create_namespaced_job(
            "default", job(documented()), dry_run="All"
        ),
    }  # fmt: skip
    for what, call in refused.items():
        with pytest.raises(ApiException) as caught:
            call()
        assert caught.value.status == 403, what
        assert "regrow-step" in caught.value.body, what


def test_only_two_accounts_have_a_token_in_their_pods(prepared):
    core = prepared.core
    image = prepared.cluster.busybox
    with_token = set()
    for account in ACCOUNTS:
        made = core.create_namespaced_pod(
            NAMESPACE, pod(image, "true", serviceAccountName=account), dry_run="All"
        )
        mounts = {mount.mount_path for mount in made.spec.containers[0].volume_mounts or []}
        if "/var/run/secrets/kubernetes.io/serviceaccount" in mounts:
            with_token.add(account)
    assert with_token == {"regrow-orchestrator", "regrow-step"}


def test_the_quota_refuses_what_is_over_it(prepared):
    core, image = prepared.core, prepared.cluster.busybox
    for resource, amount in (("cpu", "100"), ("memory", "500Gi"), ("nvidia.com/gpu", "64")):
        resources = {"requests": {resource: amount}, "limits": {resource: amount}}
        with pytest.raises(ApiException) as caught:
            core.create_namespaced_pod(NAMESPACE, pod(image, "true", container={"resources": resources}))
        assert caught.value.status == 403
        assert "exceeded quota: regrow, requested:" in caught.value.body
        assert f"requests.{resource}={amount}" in caught.value.body


def test_a_job_over_quota_waits_and_says_why(prepared):
    batch, core = client.BatchV1Api(prepared.api), prepared.core
    body = job(documented() | {"resources": {"requests": {"cpu": "100"}}})
    name = body["metadata"]["name"] = f"test-{uuid.uuid4().hex[:8]}"
    batch.create_namespaced_job(NAMESPACE, body)

    def events() -> str:
        found = core.list_namespaced_event(NAMESPACE, field_selector=f"involvedObject.name={name}").items
        return "\n".join(f"{one.reason}: {one.message}" for one in found)

    try:
        wait_for(lambda: "exceeded quota: regrow, requested: requests.cpu=100" in events(), events)
        assert not core.list_namespaced_pod(NAMESPACE, label_selector=f"job-name={name}").items
    finally:
        batch.delete_namespaced_job(name, NAMESPACE, propagation_policy="Background")


def test_defaults_for_containers_that_say_nothing(prepared):
    core, image = prepared.core, prepared.cluster.busybox
    made = core.create_namespaced_pod(
        NAMESPACE, pod(image, "true", container={"resources": {}}), dry_run="All"
    )
    resources = made.spec.containers[0].resources
    assert {"cpu", "memory", "ephemeral-storage"} <= set(resources.requests)
    assert resources.limits == {"memory": "4Gi"}
    assert made.spec.priority == 1000 and made.spec.preemption_policy == "Never"
    with pytest.raises(ApiException, match="must be less than or equal to memory limit"):
        much = {"requests": {"memory": "5Gi"}}
        core.create_namespaced_pod(
            NAMESPACE, pod(image, "true", container={"resources": much}), dry_run="All"
        )
