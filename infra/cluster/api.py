"""The few requests that starting and ending a cluster needs, as its administrator."""

import time
from typing import Any

import requests

from infra.cluster.cluster import RESOURCE, Cluster
from regrow.errors import RegrowError

# What makes pods, then the pods themselves.
_WORKLOADS = (
    "apis/batch/v1beta1/{}/cronjobs", "apis/batch/v1/{}/jobs", "apis/apps/v1/{}/deployments",
    "apis/apps/v1/{}/statefulsets", "apis/apps/v1/{}/daemonsets", "apis/apps/v1/{}/replicasets",
    "api/v1/{}/replicationcontrollers", "api/v1/{}/pods",
)  # fmt: skip


class Api:
    """The API server of a cluster.

    Args:
        cluster: with keys; its API server need not run yet.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = cluster.pki("ca.crt")
        self.session.cert = (cluster.pki("admin.crt"), cluster.pki("admin.key"))

    def ask(self, verb: str, path: str, body: Any = None) -> Any:
        """Send a request and return the answer.

        Raises:
            requests.RequestException: no answer, or a refusal.
        """
        answer = self.session.request(verb, f"{self.cluster.api}/{path}", json=body, timeout=20)
        answer.raise_for_status()
        return answer.json()

    def node_lacks(self) -> str:
        """Say what the node still lacks before pods run and GPUs are handed out, or nothing."""
        node = self.ask("GET", f"api/v1/nodes/{self.cluster.node}")
        ready: dict[str, str] = next(
            (one for one in node["status"].get("conditions", []) if one["type"] == "Ready"), {}
        )
        if ready.get("status") != "True":
            return (
                f"node {self.cluster.node} is not ready: {ready.get('message', 'no word from the kubelet')}"
            )
        have = node["status"].get("allocatable", {}).get(RESOURCE, "0")
        if have != str(self.cluster.gpus):
            return f"node {self.cluster.node} offers {have} {RESOURCE}, not {self.cluster.gpus}"
        taints = [one["key"] for one in node["spec"].get("taints", [])]
        if any(one.startswith("node.kubernetes.io/") for one in taints):
            return f"node {self.cluster.node} is tainted: {', '.join(taints)}"
        # Without it no pod is taken in.
        self.ask("GET", "api/v1/namespaces/default/serviceaccounts/default")
        return ""

    def end_workloads(self, seconds: float = 90) -> None:
        """Delete everything that makes pods, and all pods, and return when none is left.

        Raises:
            RegrowError: pods do not end.
        """
        spaces = [one["metadata"]["name"] for one in self.ask("GET", "api/v1/namespaces")["items"]]
        politely: dict[str, Any] = {"propagationPolicy": "Background", "gracePeriodSeconds": 1}
        for space in spaces:
            for path in _WORKLOADS:
                self.ask("DELETE", path.format(f"namespaces/{space}"), politely)
        deadline = time.monotonic() + seconds
        forced = time.monotonic() + seconds / 2
        while pods := self.ask("GET", "api/v1/pods")["items"]:
            if time.monotonic() > deadline:
                raise RegrowError(f"pods do not end: {', '.join(one['metadata']['name'] for one in pods)}")
            for space in spaces if time.monotonic() > forced else []:
                self.ask("DELETE", f"api/v1/namespaces/{space}/pods", {"gracePeriodSeconds": 0})
            time.sleep(0.3)
