"""The cluster's programs in the order of their starts, and how one is started, stopped and looked at."""

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.cluster import control_plane, device_plugin, host, machine, node, pki, registry
from infra.cluster.api import Api
from infra.cluster.cluster import CONTEXT, RESOURCE, Cluster
from infra.servers import processes
from infra.servers.home import is_free
from regrow.errors import InputError, RegrowError

_ROOT = Path(__file__).parents[2]
# Nothing of the shell: a proxy for the world outside must not come between the parts.
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PYTHONPATH": str(_ROOT),
    "PYTHONUNBUFFERED": "1",
}
_Say = Callable[[str], None]


def _nothing(_cluster: Cluster) -> None:
    return None


@dataclass(frozen=True)
class Service:
    """One program of the cluster.

    Attributes:
        name: also of its folder, its log and its record.
        command: how it is started.
        ready: raises until it is ready.
        finish: done once it is ready.
        ports: names of the ports that it takes.
        children_stay: whether its children go on without it (containers without containerd).
        seconds: how long it may take to be ready.
    """

    name: str
    command: Callable[[Cluster], list[str]]
    ready: Callable[[Cluster], None]
    finish: Callable[[Cluster], None] = _nothing
    ports: tuple[str, ...] = ()
    children_stay: bool = False
    seconds: float = 120


def _plugin(cluster: Cluster) -> list[str]:
    device_plugin.forget()  # else its age would tell that the new one has registered
    return [sys.executable, "-m", device_plugin.__name__, str(cluster.gpus)]


_ALL = (
    Service("registry", registry.command, registry.ready, registry.finish, ports=("registry",)),
    Service("etcd", control_plane.etcd, control_plane.etcd_ready, ports=("etcd", "etcd.peer")),
    Service("apiserver", control_plane.apiserver, control_plane.apiserver_ready, ports=("apiserver",)),
    Service(
        "controller-manager", control_plane.controller_manager, control_plane.controller_manager_ready,
        ports=("controller-manager",),
    ),
    Service("scheduler", control_plane.scheduler, control_plane.scheduler_ready, ports=("scheduler",)),
    Service("containerd", node.containerd, node.containerd_ready, children_stay=True),
    Service("kubelet", node.kubelet, node.kubelet_ready, ports=("kubelet", "kubelet.health")),
    Service("proxy", node.proxy, node.proxy_ready, ports=("proxy.health", "proxy.metrics")),
    # That it serves is seen at the node, which then has GPUs.
    Service("device-plugin", _plugin, _nothing),
)  # fmt: skip
SERVICES = {one.name: one for one in _ALL}


def state(cluster: Cluster, service: Service) -> str:
    """Return `running`, `stopped`, or `died` for one that was started and is gone."""
    record = cluster.record(service.name)
    if record is None:
        return "stopped"
    return "running" if processes.is_alive(record) else "died"


def up(cluster: Cluster, gpus: int | None, say: _Say) -> None:
    """Start what does not run, in the order of need, and return when pods run and GPUs are handed out.

    Args:
        cluster: where everything is kept.
        gpus: how many GPUs the node says it has; as before if not given.
        say: is told what happens.

    Raises:
        InputError: this is not root, packages or the built programs are missing, a port was taken over, or another
            cluster runs.
        RegrowError: something did not come up; its log is named. What started before stays up.
    """
    machine.need_root()
    machine.need_packages(machine.RUN)
    cluster.program("kubelet")
    cluster.make()
    with cluster.lock():
        changed = cluster.keep_settings(gpus)
        host.remember(cluster)
        pki.prepare(cluster)
        registry.prepare(cluster)
        node.prepare(cluster)
        for service in SERVICES.values():
            if service.name == "device-plugin" and changed:
                _stop(cluster, service)
            if state(cluster, service) == "running":
                say(f"{service.name}: runs already")
            else:
                started = time.monotonic()
                _start(cluster, service)
                say(f"{service.name}: ready after {time.monotonic() - started:.1f} s")
        _wait_node(cluster)
        say(
            f"node {cluster.node} is ready with {cluster.gpus} {RESOURCE} (that compute nothing); context {CONTEXT}"
        )


def down(cluster: Cluster, say: _Say) -> None:
    """End all pods, stop every program, and undo what was changed on the machine; records and images stay.

    Args:
        cluster: where everything is kept.
        say: is told what happens.

    Raises:
        RegrowError: a process would not stop.
    """
    machine.need_root()
    with cluster.lock():
        if all(state(cluster, SERVICES[name]) == "running" for name in ("apiserver", "etcd", "kubelet")):
            try:
                Api(cluster).end_workloads()
                _wait_containers(cluster)
                say("pods: ended")
            except Exception as error:  # ended with their containers below, whatever the API server says
                say(f"pods: {error}; their processes are ended instead")
        for service in reversed(SERVICES.values()):
            before = state(cluster, service)
            _stop(cluster, service)
            say(f"{service.name}: {'stopped' if before == 'running' else 'was not running'}")
        host.undo(cluster)


def _start(cluster: Cluster, service: Service) -> None:
    folder = cluster.place(service.name)
    if not service.children_stay:
        processes.stop(None, folder, how=signal.SIGTERM)
    for name in service.ports:
        if not all(is_free(cluster.port(name), one) for one in ("127.0.0.1", cluster.address)):
            raise InputError(
                f"{service.name}: port {cluster.port(name)}, which is its own since the first start, is taken by "
                f"another program; stop that one, or remove the folder {cluster.folder} (down first) to begin anew"
            )
    record = processes.start(
        service.command(cluster), folder=folder, log=cluster.log(service.name), environment=_ENVIRONMENT
    )
    cluster.keep_record(service.name, record)
    log = cluster.log(service.name)
    try:
        processes.wait_ready(service.name, record, log, lambda: service.ready(cluster), service.seconds)
        service.finish(cluster)
    except BaseException:
        _stop(cluster, service)
        raise


def _stop(cluster: Cluster, service: Service) -> None:
    folder = cluster.folder / service.name
    processes.stop(cluster.record(service.name), folder, how=signal.SIGTERM, seconds=10)
    cluster.keep_record(service.name, None)


def _wait_node(cluster: Cluster, seconds: float = 180) -> None:
    api = Api(cluster)
    deadline = time.monotonic() + seconds
    lacks = "no answer"
    while time.monotonic() < deadline:
        try:
            lacks = (
                api.node_lacks()
                if device_plugin.known(cluster.gpus)
                else f"the kubelet knows no {cluster.gpus} {RESOURCE} yet"
            )
        except Exception as error:  # not registered yet, or the API server is starting
            lacks = str(error)
        if not lacks:
            return
        time.sleep(0.3)
    logs = ", ".join(str(cluster.log(name)) for name in ("kubelet", "containerd", "device-plugin"))
    raise RegrowError(f"after {seconds:.0f} s {lacks}; logs: {logs}")


def _wait_containers(cluster: Cluster, seconds: float = 30) -> None:
    record = cluster.record("containerd") or {}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        left = [
            one for one in processes.members(cluster.folder / "containerd") if one.pid != record.get("pid")
        ]
        if not left:
            return
        time.sleep(0.5)
