"""etcd, the API server, the controllers and the scheduler."""

import requests

from infra.cluster import machine
from infra.cluster.cluster import POD_NETWORK, SERVICE_NETWORK, Cluster
from infra.servers.home import HOST


def etcd(cluster: Cluster) -> list[str]:
    """Return the command of etcd: on the loopback address, and only for who has a certificate."""
    clients, peers = f"https://{HOST}:{cluster.port('etcd')}", f"https://{HOST}:{cluster.port('etcd.peer')}"
    words = [
        machine.find("etcd"), "--name=node", f"--data-dir={cluster.place('etcd') / 'data'}",
        f"--listen-client-urls={clients}", f"--advertise-client-urls={clients}", f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=node={peers}", "--logger=zap",
        "--unsafe-no-fsync",  # a test cluster may lose its records when the power fails
    ]  # fmt: skip
    for prefix in ("", "peer-"):
        words += [
            f"--{prefix}cert-file={cluster.pki('etcd.crt')}", f"--{prefix}key-file={cluster.pki('etcd.key')}",
            f"--{prefix}trusted-ca-file={cluster.pki('ca.crt')}", f"--{prefix}client-cert-auth",
        ]  # fmt: skip
    return words


def etcd_ready(cluster: Cluster) -> None:
    """Raise until etcd takes requests."""
    _ask(cluster, f"https://{HOST}:{cluster.port('etcd')}/health", "etcd")


def apiserver(cluster: Cluster) -> list[str]:
    """Return the command of the API server."""
    return [
        cluster.program("kube-apiserver"),
        f"--etcd-servers=https://{HOST}:{cluster.port('etcd')}", f"--etcd-cafile={cluster.pki('ca.crt')}",
        f"--etcd-certfile={cluster.pki('etcd.crt')}", f"--etcd-keyfile={cluster.pki('etcd.key')}",
        f"--advertise-address={cluster.address}", "--bind-address=0.0.0.0",
        f"--secure-port={cluster.port('apiserver')}", f"--client-ca-file={cluster.pki('ca.crt')}",
        f"--tls-cert-file={cluster.pki('apiserver.crt')}", f"--tls-private-key-file={cluster.pki('apiserver.key')}",
        f"--service-account-key-file={cluster.pki('tokens.pub')}",
        f"--service-account-signing-key-file={cluster.pki('tokens.key')}",
        "--service-account-issuer=https://kubernetes.default.svc", f"--service-cluster-ip-range={SERVICE_NETWORK}",
        # Above the ports that this folder's own servers take.
        "--service-node-port-range=32100-32767",
        "--authorization-mode=Node,RBAC", "--allow-privileged=true",
        # Beside what is on without asking: ServiceAccount, LimitRanger, ResourceQuota, Priority, the webhooks, ...
        "--enable-admission-plugins=NodeRestriction",
        f"--kubelet-client-certificate={cluster.pki('kubelet-client.crt')}",
        f"--kubelet-client-key={cluster.pki('kubelet-client.key')}",
        f"--kubelet-certificate-authority={cluster.pki('ca.crt')}",
        # Finished Jobs go after ttlSecondsAfterFinished, as in every later version.
        "--feature-gates=TTLAfterFinished=true",
    ]  # fmt: skip


def apiserver_ready(cluster: Cluster) -> None:
    """Raise until the API server is ready for requests."""
    _ask(cluster, f"https://{HOST}:{cluster.port('apiserver')}/readyz", "admin")


def controller_manager(cluster: Cluster) -> list[str]:
    """Return the command of the controllers."""
    return [
        cluster.program("kube-controller-manager"), f"--kubeconfig={cluster.pki('controller-manager.conf')}",
        f"--service-account-private-key-file={cluster.pki('tokens.key')}", f"--root-ca-file={cluster.pki('ca.crt')}",
        "--use-service-account-credentials=true", f"--cluster-cidr={POD_NETWORK}", "--allocate-node-cidrs=false",
        "--leader-elect=false", "--feature-gates=TTLAfterFinished=true", "--port=0", f"--bind-address={HOST}",
        f"--secure-port={cluster.port('controller-manager')}",
        f"--tls-cert-file={cluster.pki('controller-manager.crt')}",
        f"--tls-private-key-file={cluster.pki('controller-manager.key')}",
    ]  # fmt: skip


def scheduler(cluster: Cluster) -> list[str]:
    """Return the command of the scheduler."""
    return [
        cluster.program("kube-scheduler"), f"--kubeconfig={cluster.pki('scheduler.conf')}", "--leader-elect=false",
        "--port=0", f"--bind-address={HOST}", f"--secure-port={cluster.port('scheduler')}",
        f"--tls-cert-file={cluster.pki('scheduler.crt')}",
        f"--tls-private-key-file={cluster.pki('scheduler.key')}",
    ]  # fmt: skip


def controller_manager_ready(cluster: Cluster) -> None:
    """Raise until the controllers say that they are well."""
    _ask(cluster, f"https://{HOST}:{cluster.port('controller-manager')}/healthz", "admin")


def scheduler_ready(cluster: Cluster) -> None:
    """Raise until the scheduler says that it is well."""
    _ask(cluster, f"https://{HOST}:{cluster.port('scheduler')}/healthz", "admin")


def _ask(cluster: Cluster, address: str, party: str) -> None:
    # Not through a proxy that this machine may have for the world outside.
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(
            address, timeout=5, verify=cluster.pki("ca.crt"),
            cert=(cluster.pki(f"{party}.crt"), cluster.pki(f"{party}.key")),
        )  # fmt: skip
    answer.raise_for_status()
