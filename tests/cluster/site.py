"""A checkout whose stack `kubernetes` is a real cluster, with images of that checkout; and what a run does there."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.servers import s3
from regrow.checkpoint import digest_of
from regrow.files import sha256_of
from tests.cluster.prepared import NAMESPACE, Prepared
from tests.cluster.running import ROOT, Running
from tests.pipelines.project import Project, tiny_config
from tests.tiny import tiny_checkpoint


class Site:
    """A user's machine beside the cluster: a checkout, ZenML connected to the cluster's server, a registered stack."""

    def __init__(self, cluster: Running, folder: Path) -> None:
        self.cluster, self.core = cluster, cluster.core
        self.project = Project(folder)
        self.environment = self.project.environment | cluster.variables
        Prepared(cluster)
        self.images = images = folder / "images.json"
        # Of what git has of this very checkout; layers that were built before are taken from the builder's store.
        self._ran(
            [sys.executable, "-m", "infra.docker", "build", "base", "--registry", cluster.cluster.registry,
             "--push", "--no-sbom", "--base", os.environ.get("REGROW_IMAGE_BASE", "rootfs"), "--out", str(images)],
            ROOT,
        )  # fmt: skip
        self.image = json.loads(images.read_text())["base"]
        self.register()

    def register(self) -> None:
        """Register the cluster's own stack."""
        self._ran(
            [sys.executable, "-m", "infra.cluster", "register", "--folder", str(self.cluster.cluster.folder),
             "--images", str(self.images)],
            ROOT,
        )  # fmt: skip

    def stack(self, values: dict[str, Any]) -> None:
        """Register the stack with other values."""
        (self.project.folder / "values.json").write_text(json.dumps(values))
        done = self.regrow("stack", "up", "kubernetes", "--values", "values.json")
        assert done.returncode == 0, done.stderr

    def _ran(self, command: list[str], folder: Path) -> str:
        done = subprocess.run(
            command, cwd=folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def regrow(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.project.command(*words), cwd=self.project.folder, env=self.environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip

    def python(self, code: str) -> Any:
        """Run a program of the user's, whose last line is JSON."""
        script = self.project.folder / "snippet.py"
        script.write_text(code)
        return json.loads(self._ran([sys.executable, str(script)], self.project.folder).splitlines()[-1])

    def tiny(self, **changes: Any) -> dict[str, Any]:
        """Return a tiny configuration whose model lies in the bucket, its data on the pods' volume, all pinned."""
        config = tiny_config(self.project)
        data = self.project.folder / "data"
        # A model that nobody has seen: what an earlier run on this cluster has cached is of another.
        shutil.rmtree(data / "model")
        tiny_checkpoint(data / "model", seed=time.time_ns() % 2**31)
        store = s3.client(self.cluster.cluster.servers)
        for file in sorted(one for one in (data / "model").rglob("*") if one.is_file()):
            store.upload_file(str(file), s3.ZENML_BUCKET, f"inputs/model/{file.relative_to(data / 'model')}")
        shared = self.cluster.cluster.folder / "cache" / "inputs"
        shared.mkdir(exist_ok=True)
        text = json.dumps(config["parameters"] | changes)
        parameters = json.loads(text.replace('"data/model"', f'"s3://{s3.ZENML_BUCKET}/inputs/model"'))
        parameters["model"]["sha256"] = digest_of(data / "model")
        for one in _sources(parameters):
            name = Path(one["source"]).name
            (shared / name).write_bytes((data / name).read_bytes())
            (shared / name).chmod(0o644)
            one |= {"source": f"/cache/inputs/{name}", "sha256": sha256_of(data / name)}
        return {"parameters": parameters}

    def pods(self) -> list[Any]:
        return list(self.core.list_namespaced_pod(NAMESPACE).items)

    def forget(self) -> None:
        """Remove the pods and jobs of earlier runs."""
        from kubernetes import client

        batch = client.BatchV1Api(self.cluster.api)
        batch.delete_collection_namespaced_job(NAMESPACE, propagation_policy="Background")
        deadline = time.monotonic() + 60
        while self.pods() and time.monotonic() < deadline:
            time.sleep(0.5)
        assert not self.pods()


def _sources(value: Any) -> list[dict[str, Any]]:
    """Return every section that names a file of the data folder."""
    found = []
    if isinstance(value, dict):
        if str(value.get("source", "")).startswith("data/"):
            found.append(value)
        found += [one for inner in value.values() for one in _sources(inner)]
    elif isinstance(value, list):
        found += [one for inner in value for one in _sources(inner)]
    return found


def step_of(pod: Any) -> str:
    """Return the step that a pod works or waits for; empty for the orchestrator's own."""
    return (pod.metadata.labels or {}).get("step_name", "")


def gpus_of(pod: Any) -> int:
    limits = pod.spec.containers[0].resources.limits or {}
    return int(limits.get("nvidia.com/gpu", 0))


class Watch:
    """Does things to a run while it runs: each once, when its sign is there, and none waits for another."""

    def __init__(self, *acts: tuple[str, Callable[[], bool], Callable[[], None]]) -> None:
        self.done: list[str] = []
        self.errors: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._wait, args=act) for act in acts]

    def __enter__(self) -> "Watch":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _wait(self, name: str, sign: Callable[[], bool], do: Callable[[], None]) -> None:
        while not self._over.wait(0.5):
            try:
                if sign():
                    do()
                    self.done.append(name)
                    return
            except Exception as error:  # told at the end: a thread cannot fail a test
                self.errors.append(f"{name}: {error!r}")
                return
