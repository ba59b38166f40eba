"""A Docker daemon of the tests' own, of Debian's docker.io: no bridge, no rules of the firewall, all in one folder."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil

from infra.servers import processes

# A shell that may not raise limits (a container without CAP_SYS_RESOURCE) can run it with these.
_OPTIONS = (
    "--iptables=false", "--ip6tables=false", "--bridge=none", "--oom-score-adjust", "0",
    "--default-ulimit", "nofile=20000:20000",
)  # fmt: skip


class Docker:
    """The daemon; containers use the host's network."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/docker.sock"
        self.record: dict | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "DOCKER_HOST": self.host}

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [
            "dockerd", "--host", self.host, "--data-root", str(self.folder / "data"),
            "--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "pid"), *_OPTIONS,
        ]  # fmt: skip
        log = self.folder / "log"
        self.record = processes.start(command, folder=self.folder, log=log, environment=dict(os.environ))
        processes.wait_ready("dockerd", self.record, log, lambda: self.ask("info"), 120)

    def ask(self, *words: str) -> str:
        done = subprocess.run(
            ["docker", *words], env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        return done.stdout

    def load(self, image: str) -> None:
        """Take an image over from the store that podman and buildah share."""
        if image in self.ask("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").split():
            return
        saved = subprocess.Popen(
            ["podman", "save", "--format", "docker-archive", image], stdout=subprocess.PIPE
        )
        subprocess.run(["docker", "load"], env=self.environment, stdin=saved.stdout, check=True)
        assert saved.wait() == 0

    def stop(self) -> list[str]:
        """Stop it with all containers, remove its folder, and return what is left of it."""
        processes.stop(self.record, self.folder, how=signal.SIGTERM, seconds=60)
        for mount in reversed(self._mounts()):
            subprocess.run(["umount", mount], check=False)
        left = [f"mount {mount}" for mount in self._mounts()]
        left += [f"process {one.pid} {one.name()}" for one in processes.members(self.folder)]
        left += [
            f"process {one.info['pid']} {one.info['name']}"
            for one in psutil.process_iter(["pid", "name", "cmdline"])
            if str(self.folder) in " ".join(one.info["cmdline"] or [])
        ]
        if not left:
            shutil.rmtree(self.folder)
        return left

    def _mounts(self) -> list[str]:
        lines = Path("/proc/self/mounts").read_text().splitlines()
        return [line.split()[1] for line in lines if line.split()[1].startswith(f"{self.folder}/")]


def missing() -> str:
    """Say what has to be installed before a daemon can start, or nothing."""
    if os.geteuid() != 0:
        return "dockerd needs root"
    found = [
        name for name in ("dockerd", "containerd", "runc", "docker", "podman") if shutil.which(name) is None
    ]
    return f"{', '.join(found)} missing: apt-get install docker.io podman" if found else ""
