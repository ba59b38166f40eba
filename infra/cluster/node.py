"""What makes this machine a node: containerd, the kubelet, kube-proxy, the pod network."""

import json
import socket
from pathlib import Path

import requests

from infra.cluster import machine
from infra.cluster.cluster import PAUSE, POD_NETWORK, Cluster
from infra.servers.home import HOST, write_private

BRIDGE = "cni-regrow"
CNI_PROGRAMS = "/usr/lib/cni"
LABELS = {"regrow/pool": "gpu"}


def prepare(cluster: Cluster) -> None:
    """Write the configurations of all three and of the pod network."""
    write_private(cluster.etc("containerd.toml"), _containerd(cluster))
    write_private(cluster.etc("kubelet.json"), json.dumps(_kubelet(cluster), indent=1))
    folder = cluster.etc("cni")
    folder.mkdir(exist_ok=True)
    write_private(folder / "10-bridge.conflist", json.dumps(_network(cluster), indent=1))


def containerd(cluster: Cluster) -> list[str]:
    """Return the command of containerd."""
    return [machine.find("containerd"), "--config", str(cluster.etc("containerd.toml"))]


def containerd_ready(cluster: Cluster) -> None:
    """Raise until containerd takes connections."""
    with socket.socket(socket.AF_UNIX) as one:
        one.settimeout(5)
        one.connect(str(cluster.containerd_socket))


def kubelet(cluster: Cluster) -> list[str]:
    """Return the command of the kubelet."""
    return [
        cluster.program("kubelet"), f"--config={cluster.etc('kubelet.json')}",
        f"--kubeconfig={cluster.pki('kubelet.conf')}", "--container-runtime=remote",
        f"--container-runtime-endpoint=unix://{cluster.containerd_socket}", "--network-plugin=cni",
        f"--cni-bin-dir={CNI_PROGRAMS}", f"--cni-conf-dir={cluster.etc('cni')}",
        f"--cni-cache-dir={cluster.place('kubelet') / 'cni'}", f"--root-dir={cluster.place('kubelet') / 'root'}",
        f"--volume-plugin-dir={cluster.place('kubelet') / 'plugins'}",
        f"--hostname-override={cluster.node}", f"--node-ip={cluster.address}",
        f"--pod-infra-container-image={cluster.registry}/{PAUSE}",
        "--node-labels=" + ",".join(f"{name}={value}" for name, value in LABELS.items()),
    ]  # fmt: skip


def kubelet_ready(cluster: Cluster) -> None:
    """Raise until the kubelet says that it is well."""
    _ask(f"http://{HOST}:{cluster.port('kubelet.health')}/healthz")


def proxy(cluster: Cluster) -> list[str]:
    """Return the command of kube-proxy."""
    return [
        cluster.program("kube-proxy"), f"--kubeconfig={cluster.pki('proxy.conf')}",
        f"--hostname-override={cluster.node}", f"--cluster-cidr={POD_NETWORK}", "--proxy-mode=iptables",
        # The two that a machine with fewer rights than root's own refuses.
        "--conntrack-max-per-core=0", "--oom-score-adj=0",
        f"--healthz-bind-address={HOST}:{cluster.port('proxy.health')}",
        f"--metrics-bind-address={HOST}:{cluster.port('proxy.metrics')}",
    ]  # fmt: skip


def proxy_ready(cluster: Cluster) -> None:
    """Raise until kube-proxy has written its rules."""
    _ask(f"http://{HOST}:{cluster.port('proxy.health')}/healthz")


def _containerd(cluster: Cluster) -> str:
    place = cluster.place("containerd")
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""\
version = 2
root = "{place / "root"}"
state = "{place / "state"}"
oom_score = 0
[grpc]
address = "{cluster.containerd_socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{place / "opt"}"
[{cri}]
sandbox_image = "{cluster.registry}/{PAUSE}"
restrict_oom_score_adj = true
disable_apparmor = {"false" if Path("/sys/kernel/security/apparmor").is_dir() else "true"}
[{cri}.containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{cri}.cni]
bin_dir = "{CNI_PROGRAMS}"
conf_dir = "{cluster.etc("cni")}"
[{cri}.registry.mirrors."{cluster.registry}"]
endpoint = ["http://{cluster.registry}"]
"""


def _kubelet(cluster: Cluster) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": cluster.pki("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": cluster.pki("kubelet.crt"),
        "tlsPrivateKeyFile": cluster.pki("kubelet.key"),
        "port": cluster.port("kubelet"),
        "readOnlyPort": 0,
        "healthzBindAddress": HOST,
        "healthzPort": cluster.port("kubelet.health"),
        "cgroupDriver": "cgroupfs",
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "resolvConf": "/etc/resolv.conf",
        # A laptop's disk is fuller than a node's.
        "evictionHard": {"imagefs.available": "1%", "nodefs.available": "1%", "memory.available": "100Mi"},
        "imageGCHighThresholdPercent": 99,
        "imageGCLowThresholdPercent": 98,
    }


def _network(cluster: Cluster) -> dict[str, object]:
    leases = cluster.place("kubelet") / "leases"
    return {
        "cniVersion": "0.4.0",
        "name": "regrow",
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": True,
                "ipMasq": True,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(leases),
                    "ranges": [[{"subnet": POD_NETWORK}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _ask(address: str) -> None:
    with requests.Session() as session:
        session.trust_env = False
        session.get(address, timeout=5).raise_for_status()
