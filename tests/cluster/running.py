"""A cluster as a user starts it: by the command line, in a folder of its own; and what it leaves on the machine."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from kubernetes import client, config

from infra.cluster import build, image, machine
from infra.cluster.cluster import Cluster
from regrow.errors import InputError

ROOT = Path(__file__).parents[2]
BUSYBOX = shutil.which("busybox", path="/bin:/usr/bin")
_TOOLS = ("sh", "cat", "echo", "env", "ls", "sleep", "wget", "nc", "id")


def missing() -> str:
    """Say what a cluster lacks on this machine before it can start, or nothing."""
    try:
        machine.need_root()
        machine.need_packages(machine.RUN)
        build.programs()
    except InputError as error:
        return str(error)
    return "" if BUSYBOX else "busybox is missing: apt-get install busybox-static"


class Running:
    """A cluster in a folder."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder)

    def command(self, *words: str, check: bool = True) -> str:
        """Run `python -m infra.cluster` and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "infra.cluster", *words, "--folder", str(self.cluster.folder)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def variables(self) -> dict[str, str]:
        """What `env` tells a client, as a shell understands it."""
        lines = [shlex.split(line) for line in self.command("env").splitlines()]
        assert all(words[0] == "export" for words in lines)
        return dict(words[1].split("=", 1) for words in lines)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a client program."""
        return {**os.environ, **self.variables}

    @property
    def api(self) -> client.ApiClient:
        """A client of the API server, as its administrator."""
        return config.new_client_from_config(self.cluster.pki("admin.conf"))

    @property
    def core(self) -> client.CoreV1Api:
        return client.CoreV1Api(self.api)

    @property
    def busybox(self) -> str:
        """The name of an image with a shell, which is put into the registry where it is missing."""
        links = {f"/bin/{tool}": "busybox" for tool in _TOOLS}
        return image.push(
            self.cluster.registry,
            "busybox:test",
            {"/bin/busybox": Path(str(BUSYBOX))},
            ["/bin/sh", "-c"],
            links,
        )

    def pod(self, script: str, *, gpus: int = 0, namespace: str = "default") -> str:
        """Start a pod that runs a script, and return its name."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        asked = {"nvidia.com/gpu": str(gpus)} if gpus else {}
        body = {
            "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "main",
                        "image": self.busybox,
                        "args": [script],
                        "resources": {"requests": {"cpu": "10m", **asked}, "limits": asked},
                    }
                ],
            },
        }
        self.core.create_namespaced_pod(namespace, body)
        return name

    def phase(self, name: str) -> str:
        return self.core.read_namespaced_pod(name, "default").status.phase

    def log(self, name: str) -> str:
        return self.core.read_namespaced_pod_log(name, "default")

    def events(self, name: str) -> str:
        """What was said about a pod."""
        found = self.core.list_namespaced_event("default", field_selector=f"involvedObject.name={name}").items
        return "\n".join(f"{one.reason}: {one.message}" for one in found)

    def wait(self, name: str, phase: str, seconds: float = 90) -> None:
        """Return when a pod is in a phase."""
        wait_for(
            lambda: self.phase(name) == phase, lambda: f"{self.phase(name)}: {self.events(name)}", seconds
        )

    @property
    def pids(self) -> dict[str, int]:
        """The process of each of the cluster's programs."""
        records = json.loads((self.cluster.folder / "state.json").read_text())["processes"]
        return {name: record["pid"] for name, record in records.items()}


def wait_for(found: Callable[[], Any], says: Callable[[], str], seconds: float = 60) -> None:
    """Return when something is so; fail with what there is to say."""
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, says()
        time.sleep(0.3)


def traces(folder: Path) -> dict[str, Any]:
    """What a cluster could leave behind on this machine."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    links = json.loads(_output("ip", "-json", "link"))
    rules = [
        line
        for tool in ("iptables", "ip6tables")
        for table in ("nat", "filter", "mangle")
        for line in _output(f"{tool}-save", "--table", table).splitlines()
        # Tables and chains of the kernel's own, once empty, say nothing.
        if line.startswith("-A") or re.match(r":(KUBE|CNI)", line)
    ]
    places = [
        "/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers", "/run/netns", "/run/containerd",
        "/usr/libexec/kubernetes", "/run/kubernetes", "/run/regrow-cluster",
    ]  # fmt: skip
    sysctls = [
        "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "net/ipv4/ip_forward",
        "net/ipv4/conf/all/route_localnet", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
    ]  # fmt: skip
    return {
        "processes": sorted(_belonging(folder)),
        "mounts": sorted(
            one for one in mounts if one.startswith((str(folder), "/run/netns/cni", "/var/lib/kubelet"))
        ),
        "links": sorted(one["ifname"] for one in links if one["ifname"].startswith(("cni", "veth"))),
        "rules": sorted(rules),
        "files": sorted(
            str(one)
            for place in places
            if Path(place).exists()
            for one in [Path(place), *Path(place).rglob("*")]
        ),
        "cgroups": sorted(str(one) for one in Path("/sys/fs/cgroup").glob("**/kubepods")),
        "sysctls": {name: (Path("/proc/sys") / name).read_text().strip() for name in sysctls},
    }


def _belonging(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if any(str(folder) in word for word in words) and process.pid != os.getpid():
                found.append(" ".join(words)[:200])
        except psutil.Error:
            continue
    return found


def _output(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout
