"""What a cluster changes on this machine outside its folder, remembered at `up` and undone at `down`."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from infra.cluster import machine
from infra.cluster.cluster import Cluster
from infra.cluster.node import BRIDGE
from infra.servers import processes
from infra.servers.home import write_private
from regrow.errors import InputError

# Who has a cluster on this machine: two would share these folders, rules and links.
_OWNER = Path("/run/regrow-cluster")
_SYSCTLS = (
    "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes", "net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet",
    "net/bridge/bridge-nf-call-iptables", "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_timeout_established", "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
)  # fmt: skip
# Folders that the kubelet, containerd and the network's programs make whatever they are told.
_FOLDERS = (
    "/var/lib/kubelet", "/var/lib/cni", "/var/lib/dockershim", "/var/log/pods", "/var/log/containers",
    "/run/containerd/runc/k8s.io", "/usr/libexec/kubernetes", "/run/kubernetes",
)  # fmt: skip
# Folders that others make too (podman, dockerd): only what is empty goes.
_SHARED = ("/run/netns", "/run/containerd")
_GROUPS = Path("/sys/fs/cgroup")
_REAPED = 15.0  # seconds
_TABLES = ("nat", "filter", "mangle")
_CHAIN = re.compile(r"\b(?:KUBE|CNI)-[A-Z0-9-]+", re.IGNORECASE)


def remember(cluster: Cluster) -> None:
    """Write down what is there before anything of the cluster starts.

    Raises:
        InputError: another cluster, or another kubelet, is at work on this machine.
    """
    _refuse_another(cluster)
    path = cluster.folder / "before.json"
    if not path.is_file():
        before = {
            "sysctls": {name: value for name in _SYSCTLS if (value := _sysctl(name)) is not None},
            "missing": [folder for folder in (*_FOLDERS, *_SHARED) if not Path(folder).exists()],
            "netns": _networks(),
            "chains": {tool: sorted(_chains(tool)) for tool in ("iptables", "ip6tables")},
        }
        write_private(path, json.dumps(before, indent=1))
    write_private(_OWNER, f"{cluster.folder}\n")
    (Path("/var/lib/kubelet") / "device-plugins").mkdir(parents=True, exist_ok=True)


def undo(cluster: Cluster) -> None:
    """Take away what the cluster, whose processes have ended, left on the machine."""
    path = cluster.folder / "before.json"
    if not path.is_file():
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    unmount(cluster)
    for name in sorted(set(_networks()) - set(before["netns"])):
        _run(["umount", "--lazy", f"/run/netns/{name}"])
        (Path("/run/netns") / name).unlink(missing_ok=True)
    for link in [*_on_the_bridge(), BRIDGE]:
        _run([machine.find("ip"), "link", "delete", link])
    for tool, chains in before["chains"].items():
        _remove_chains(tool, set(chains))
    _remove_groups()
    for name in before["missing"]:
        if name not in _SHARED:
            shutil.rmtree(name, ignore_errors=True)
    _remove_dead_sockets(Path("/run/containerd/s"))
    for name in before["missing"]:
        _remove_empty(Path(name))
    for name, value in before["sysctls"].items():
        if _sysctl(name) != value:
            (Path("/proc/sys") / name).write_text(value)
    path.unlink()
    if _owner() == cluster.folder:
        _OWNER.unlink()


def unmount(cluster: Cluster) -> None:
    """Unmount everything under the folder, the innermost first."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    places = [line.split()[1].encode().decode("unicode_escape") for line in lines]
    for place in sorted((one for one in places if one.startswith(f"{cluster.folder}/")), reverse=True):
        if _run(["umount", place]) != 0:
            _run(["umount", "--lazy", place])


def _refuse_another(cluster: Cluster) -> None:
    owner = _owner()
    if owner is not None and owner != cluster.folder and (owner / "state.json").is_file():
        other = Cluster(owner)
        records = [other.record(name) for name in ("apiserver", "containerd", "kubelet")]
        if any(processes.is_alive(record) for record in records):
            raise InputError(
                f"the cluster of {owner} runs on this machine, and two cannot; "
                f"python -m infra.cluster down --folder {owner}"
            )
        if (owner / "before.json").is_file():
            raise InputError(
                f"the cluster of {owner} has ended without `down`; python -m infra.cluster down --folder {owner}"
            )
    own = cluster.record("kubelet")
    for process in psutil.process_iter(["name"]):
        if process.info["name"] == "kubelet" and (own is None or process.pid != own["pid"]):
            raise InputError(
                f"another kubelet (process {process.pid}) runs on this machine, which can be one node only"
            )


def _owner() -> Path | None:
    try:
        return Path(_OWNER.read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        return None


def _sysctl(name: str) -> str | None:
    try:
        return (Path("/proc/sys") / name).read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _networks() -> list[str]:
    folder = Path("/run/netns")
    return sorted(one.name for one in folder.glob("cni-*")) if folder.is_dir() else []


def _on_the_bridge() -> list[str]:
    """Return the links of pods: the kernel takes one away with its pod's network, which it may keep for a while."""
    done = subprocess.run(
        [machine.find("ip"), "-json", "link", "show", "master", BRIDGE],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [one["ifname"] for one in json.loads(done.stdout or "[]")]


def _remove_groups() -> None:
    """End what is left of pods, and remove their control groups.

    A container whose keeper was killed is nobody's child any more: only its group still says whose it was. A killed
    process is in its group until somebody has asked for its end.
    """
    deadline = time.monotonic() + _REAPED
    while True:
        left = [one for one in (_GROUPS / "kubepods", *_GROUPS.glob("*/kubepods")) if one.is_dir()]
        for folder in left:
            for inside in folder.rglob("cgroup.procs"):
                with suppress(OSError):  # the group has gone meanwhile, or its process
                    for pid in inside.read_text().split():
                        os.kill(int(pid), signal.SIGKILL)
            _remove_empty(folder)
        if not any(one.is_dir() for one in left) or time.monotonic() > deadline:
            return
        time.sleep(0.2)


def _rules(tool: str, table: str) -> list[str]:
    done = subprocess.run(
        [machine.find(f"{tool}-save", {f"{tool}-save": "iptables"}), "--table", table],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.splitlines()


def _chains(tool: str) -> set[str]:
    lines = [line for table in _TABLES for line in _rules(tool, table) if line.startswith(":")]
    return {name for line in lines for name in _CHAIN.findall(line)}


def _remove_chains(tool: str, kept: set[str]) -> None:
    """Remove the chains that came since, and every rule that names one; other rules stay as they are."""
    for table in _TABLES:
        lines = _rules(tool, table)
        left = [line for line in lines if not set(_CHAIN.findall(line)) - kept]
        if left != lines:
            restore = machine.find(f"{tool}-restore", {f"{tool}-restore": "iptables"})
            subprocess.run(
                [restore, "--table", table],
                input="\n".join(left) + "\n",
                text=True,
                check=True,
                capture_output=True,
            )


def _remove_dead_sockets(folder: Path) -> None:
    # Where a container's keeper was killed its socket stays, and its name tells not whose it was.
    alive = Path("/proc/net/unix").read_text(encoding="utf-8")
    for path in folder.iterdir() if folder.is_dir() else []:
        if path.is_socket() and str(path) not in alive:
            path.unlink()


def _remove_empty(folder: Path) -> None:
    """Remove a folder and those in it as far as they hold no file; the folders of a control group hold none."""
    for inner in sorted((one for one in folder.rglob("*") if one.is_dir()), reverse=True):
        _try_remove(inner)
    if folder.is_dir():
        _try_remove(folder)


def _try_remove(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        return


def _run(command: Sequence[str]) -> int:
    return subprocess.run(command, capture_output=True, check=False).returncode
