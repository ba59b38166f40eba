"""A checkout whose ZenML client knows the stack `kubeflow`, and a tiny model with its data in an S3 store."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from infra.servers import s3
from regrow.checkpoint import digest_of
from regrow.files import sha256_of
from tests.kubeflow.docker import Docker
from tests.pipelines.project import Project, tiny_config
from tests.servers.running import Servers

_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
IMAGE = "registry.example:5000/regrow-base:tested"
# The one that `--stack` needs; nothing answers there.
KUBECONFIG = {
    "apiVersion": "v1", "kind": "Config", "current-context": "kubeflow", "users": [],
    "clusters": [{"name": "k", "cluster": {"server": "https://127.0.0.1:1"}}],
    "contexts": [{"name": "kubeflow", "context": {"cluster": "k", "user": "u"}}],
}  # fmt: skip


class World:
    """What the tests of this folder act on."""

    def __init__(self, folder: Path, servers: Servers) -> None:
        self.project = Project(folder)
        self.servers = servers
        self.variables = servers.variables
        self.folder = self.project.folder

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in self.project.environment.items() if not name.startswith("AWS")}
        return kept | self.variables | {"KUBECONFIG": str(self.folder / "kubeconfig")}

    def command(self, *words: str, **variables: str) -> str:
        """Run a module of the checkout and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=self.folder,
            env=self.environment | variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        return done.stdout

    def make(self) -> None:
        """Put model and data into the store, secrets into ZenML, and register the stack as a user does."""
        (self.folder / "kubeconfig").write_text(yaml.safe_dump(KUBECONFIG))
        self.config = self._in_the_store(tiny_config(self.project))
        self.project.write_config(self.config)
        self.command("tests.kubeflow.secrets", PYTHONPATH=os.pathsep.join((str(self.folder), str(_root()))))
        self._register()

    def compile(self) -> Path:
        """Run `python -m infra.kubeflow compile`."""
        self.command("infra.kubeflow", "compile", "test.yaml", "--out", "pipeline.yaml")
        return self.folder / "pipeline.yaml"

    def run(self, pipeline: Path, docker: Docker, cache: Path) -> str:
        """Run `python -m infra.kubeflow local` and return ZenML's account of the run."""
        cache.chmod(0o777)  # the image's user is another one
        said = self.command(
            "infra.kubeflow", "local", pipeline.name, "--env", "ZENML_STORE_API_KEY", "--mount", f"{cache}:/cache",
            DOCKER_HOST=docker.host,
        )  # fmt: skip
        run = said.splitlines()[-1]
        paths = os.pathsep.join((str(self.folder), str(_root())))
        return self.command("tests.kubeflow.account", run, PYTHONPATH=paths).splitlines()[-1]

    def _in_the_store(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the configuration with every local source as one in the S3 store."""
        data, store = self.folder / "data", s3.client(self.servers.home)
        for file in data.rglob("*"):
            if file.is_file():
                store.upload_file(str(file), s3.ZENML_BUCKET, f"kubeflow/{file.relative_to(data)}")

        def moved(value: Any) -> Any:
            if isinstance(value, list):
                return [moved(one) for one in value]
            if not isinstance(value, dict):
                return value
            found = {key: moved(one) for key, one in value.items()}
            if str(source := found.get("source") or "").startswith("data/"):
                path = self.folder / str(source)
                found["source"] = f"s3://{s3.ZENML_BUCKET}/kubeflow/{path.relative_to(data)}"
                found["sha256"] = digest_of(path) if path.is_dir() else sha256_of(path)
            return found

        return moved(config)

    def _register(self) -> None:
        values = {
            "orchestrator": {"kubernetes_context": "kubeflow"},
            "artifact_store": {
                "path": f"s3://{s3.ZENML_BUCKET}/artifacts",
                "authentication_secret": "regrow-s3",
                "client_kwargs": {"endpoint_url": self.variables["AWS_ENDPOINT_URL_S3"]},
            },
            "container_registry": {"uri": "registry.example:5000"},
            "experiment_tracker": {"tracking_uri": self.variables["MLFLOW_TRACKING_URI"]},
            "images": dict.fromkeys(("base", "tune", "generate", "evaluate"), IMAGE),
            "environment": {
                "AWS_ENDPOINT_URL_S3": self.variables["AWS_ENDPOINT_URL_S3"],
                "OMP_NUM_THREADS": "1",  # threads that wait for each other are slow on a busy machine
                "OMP_WAIT_POLICY": "passive",
                "GX_ANALYTICS_ENABLED": "False",
            },
            "secrets": ["regrow-sources"],
        }
        (self.folder / "values.json").write_text(json.dumps(values))
        self.command("regrow.cli", "stack", "up", "kubeflow", "--values", "values.json")


def _root() -> Path:
    return Path(__file__).parents[2]
