"""What this machine must have for a cluster: root, Debian's programs, an address that pods reach."""

import fcntl
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from infra.servers.home import open_private
from regrow.errors import InputError

# A program that tells whether the package is there -> the package.
BUILD: Mapping[str, str] = {
    "/usr/lib/go-1.19/bin/go": "golang-1.19-go",
    "make": "make",
    "rsync": "rsync",
    "jq": "jq",
    "gcc": "gcc",
    "/usr/include/stdlib.h": "libc6-dev",
    "/usr/include/linux/types.h": "linux-libc-dev",
}
RUN: Mapping[str, str] = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "docker-registry": "docker-registry",
    "iptables": "iptables",
    "ip": "iproute2",
    "sysctl": "procps",
    "conntrack": "conntrack",
    "ethtool": "ethtool",
    "socat": "socat",
}
# What builds images for the cluster; the cluster itself runs without.
IMAGES: Mapping[str, str] = {"podman": "podman", "buildah": "buildah", "conmon": "conmon"}

_PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find(name: str, packages: Mapping[str, str] = RUN) -> str:
    """Return the path of a program.

    Raises:
        InputError: it is missing; names its package.
    """
    found = name if name.startswith("/") and Path(name).exists() else shutil.which(name, path=_PLACES)
    if found is None:
        raise InputError(f"{name} is not on this machine: apt-get install {packages[name]} (Debian)")
    return found


def missing(packages: Mapping[str, str]) -> list[str]:
    """Return the Debian packages that are not installed."""
    lacking = []
    for name, package in packages.items():
        try:
            find(name, packages)
        except InputError:
            lacking.append(package)
    return sorted(lacking)


def need_packages(packages: Mapping[str, str]) -> None:
    """Raise where Debian packages are missing.

    Raises:
        InputError: names all of them, and the one command that installs them.
    """
    if lacking := missing(packages):
        raise InputError(
            f"Debian packages are missing: {', '.join(lacking)}. Install them with\n"
            f"  apt-get install --no-install-recommends {' '.join(lacking)}"
        )


def need_root() -> None:
    """Raise unless this is root, as whom kubelet and containerd must run.

    Raises:
        InputError: it is not.
    """
    if os.geteuid() != 0:
        raise InputError(
            "a Kubernetes node needs root (mounts, networks, cgroups); run it with sudo, or in a virtual machine"
        )


def address() -> str:
    """Return this machine's address, by which pods and clients reach it.

    Raises:
        InputError: there is none but the loopback address.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent: the kernel chooses the address from which it would reach that network.
            probe.connect(("198.51.100.1", 9))
            found = str(probe.getsockname()[0])
        except OSError:
            found = "127.0.0.1"
    if found.startswith("127."):
        raise InputError("this machine has no network address but 127.0.0.1; name one with --host ADDRESS")
    return found


def node_name() -> str:
    """Return the name of the node: this machine's, as Kubernetes allows names."""
    return socket.gethostname().split(".")[0].lower().replace("_", "-")


@contextmanager
def alone(path: Path, otherwise: str) -> Iterator[None]:
    """Hold a lock file, or say who does.

    Raises:
        InputError: somebody else holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_private(path) as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{path.parent}: {otherwise}; wait until it is done") from error
        yield
