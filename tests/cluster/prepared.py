"""The namespace `regrow` of a test cluster, as overlays/test makes it, and who asks for what there."""

from typing import Any

from kubernetes import client

from infra.kubernetes.kubectl import OVERLAYS, apply, build, on_this_node
from tests.cluster.running import Running

NAMESPACE = "regrow"


class Prepared:
    """A cluster with the overlay applied. Nothing is taken away: others may work in the namespace."""

    def __init__(self, cluster: Running) -> None:
        self.cluster = cluster
        self.kubeconfig = str(cluster.cluster.pki("admin.conf"))
        self.api, self.core = cluster.api, cluster.core  # made once: they keep their connections
        self.objects = on_this_node(build(OVERLAYS / "test"), cluster.cluster.folder / "cache")
        self.said = apply(self.objects, kubeconfig=self.kubeconfig)

    def may(
        self, account: str, verb: str, resource: str, *, namespace: str = NAMESPACE, group: str = ""
    ) -> bool:
        """Ask the API server's authorizer, as `kubectl auth can-i` does."""
        resource, _, sub = resource.partition("/")
        asked = client.V1ResourceAttributes(
            verb=verb, resource=resource, subresource=sub or None, group=group, namespace=namespace or None
        )
        review = client.V1SubjectAccessReview(
            spec=client.V1SubjectAccessReviewSpec(
                user=f"system:serviceaccount:{NAMESPACE}:{account}",
                groups=[
                    "system:serviceaccounts",
                    f"system:serviceaccounts:{NAMESPACE}",
                    "system:authenticated",
                ],
                resource_attributes=asked,
            )
        )
        answer = client.AuthorizationV1Api(self.api).create_subject_access_review(review)
        return bool(answer.status.allowed)

    def api_of(self, account: str) -> client.ApiClient:
        """Return a client with a token of the account's own, as a pod of it has."""
        admin = self.api
        token = admin.call_api(
            f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token",
            "POST",
            body={"spec": {"expirationSeconds": 600, "audiences": None}},
            header_params={"Content-Type": "application/json"},
            auth_settings=["BearerToken"],
            response_type="object",
        )[0]["status"]["token"]
        settings = client.Configuration()
        settings.host = admin.configuration.host
        settings.ssl_ca_cert = admin.configuration.ssl_ca_cert
        settings.api_key = {"authorization": f"Bearer {token}"}
        return client.ApiClient(settings)


def pod(image: str, script: str, **spec: Any) -> dict[str, Any]:
    """Return a pod that keeps to Pod Security `restricted`."""
    container = {
        "name": "main",
        "image": image,
        "args": [script],
        "resources": {"requests": {"cpu": "10m"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {
        "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    container |= spec.pop("container", {})
    return {
        "metadata": {"generateName": "test-"},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "priorityClassName": "regrow-pipeline",
            "securityContext": security,
            "containers": [container],
        }
        | spec,
    }
