"""The servers of `infra/kubernetes`, started with the command and the variables of their manifests.

What the cluster would do is done here: ConfigMaps and Secrets become variables, services addresses. The databases
and the S3 store are real ones of infra.servers.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from infra.kubernetes.kubectl import OVERLAYS, build
from infra.servers import mariadb, postgres, s3
from infra.servers.home import HOST, Home
from infra.servers.services import down, up
from tests.infra.test_manifests import containers, of_kind, pods
from tests.servers.running import missing

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    return build(OVERLAYS / "gpu")


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    if lack := missing():
        pytest.skip(lack)
    folder = Path(tempfile.mkdtemp(prefix="regrow-manifests-", dir="/var/tmp"))
    home = Home(folder)
    home.make()
    names = ("s3", "postgres", "mariadb")
    try:
        up(home, names)
        yield home
    finally:
        down(home, names)
        shutil.rmtree(folder, ignore_errors=True)


class Container:
    """A process in the place of a container."""

    def __init__(self, objects: list[dict[str, Any]], name: str, folder: Path) -> None:
        self.pod = pods(objects)[name]["spec"]
        (self.spec,) = containers(pods(objects)[name])
        self.maps = {key: one["data"] for key, one in of_kind(objects, "ConfigMap").items()}
        self.folder = folder
        self.port = self.spec["ports"][0]["containerPort"]

    def start(self, secrets: dict[str, dict[str, str]], changes: dict[str, str], port: int) -> None:
        """Start what the manifest says; `changes` stand for what only a cluster has."""
        variables: dict[str, str] = {}
        for source in self.spec["envFrom"]:
            if "configMapRef" in source:
                variables |= self.maps[source["configMapRef"]["name"]]
            else:
                variables |= secrets.get(source["secretRef"]["name"], {})
        for one in self.spec["env"]:
            if reference := one.get("valueFrom", {}).get("secretKeyRef"):
                variables[one["name"]] = secrets[reference["name"]][reference["key"]]
            else:
                variables[one["name"]] = one["value"]
        assert set(changes) <= set(variables), "a change of what the manifest does not have"
        places = {mount["mountPath"]: self.folder / mount["name"] for mount in self.spec["volumeMounts"]}
        for place in places.values():
            place.mkdir(exist_ok=True)
        for volume in self.pod["volumes"]:
            if "configMap" in volume:
                for file, text in self.maps[volume["configMap"]["name"]].items():
                    (self.folder / volume["name"] / file).write_text(text)
        variables |= changes

        def here(text: str) -> str:
            return next(
                (text.replace(at, str(to), 1) for at, to in places.items() if text.startswith(at)), text
            )

        command = [str(port) if word == str(self.port) else here(word) for word in self.spec["command"]]
        assert command[0] == "python"
        self.port = port
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command[1:]],
                cwd=self.folder,
                env={"PATH": os.environ["PATH"]} | {name: here(value) for name, value in variables.items()},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until all probes pass, as long as the startup probe would."""
        startup = self.spec["startupProbe"]
        until = time.monotonic() + startup["periodSeconds"] * startup["failureThreshold"]
        while time.monotonic() < until:
            assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                try:
                    address = f"http://{HOST}:{self.port}{self.spec[kind]['httpGet']['path']}"
                    if requests.get(address, timeout=10).status_code != 200:
                        break
                except requests.ConnectionError:
                    break
            else:
                return
            time.sleep(1)
        pytest.fail("not ready in time: " + (self.folder / "log").read_text()[-3000:])

    def stop(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def container(objects, tmp_path) -> Iterator[Any]:
    started: list[Container] = []

    def make(name: str, *arguments: Any) -> Container:
        one = Container(objects, name, tmp_path)
        one.start(*arguments)
        started.append(one)
        one.wait()
        return one

    yield make
    for one in started:
        one.stop()


def test_mlflow(objects, home, container):
    """Tables in both databases, logins, artifacts on S3, and the names under which it answers."""
    access, key = s3.keys(home, "mlflow")
    password = "a long password: /@%"
    secrets = {
        "mlflow-database": {"username": postgres.USER, "password": home.secret("postgres.mlflow")},
        "mlflow-server": {"admin-password": password, "csrf-key": "c" * 24},
        "mlflow-s3": {
            "AWS_ACCESS_KEY_ID": access,
            "AWS_SECRET_ACCESS_KEY": key,
            "MLFLOW_S3_ENDPOINT_URL": s3.url(home),
            "AWS_DEFAULT_REGION": s3.REGION,
        },
    }
    changes = {
        "PGHOST": HOST,
        "PGPORT": str(home.port("postgres")),
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{s3.MLFLOW_BUCKET}/artifacts",
    }
    server = container("mlflow", secrets, changes, home.port("mlflow"))
    address = f"http://{HOST}:{server.port}"
    ask = f"{address}/api/2.0/mlflow/registered-models/search"
    service = of_kind(objects, "Service")["regrow-mlflow"]["metadata"]

    def answer(host: str, login: tuple[str, str] | None = ("admin", password)) -> int:
        return requests.get(ask, headers={"Host": host}, auth=login, timeout=60).status_code

    for host in (
        f"{service['name']}:5000",
        f"{service['name']}.{service['namespace']}.svc:5000",
        f"{service['name']}.{service['namespace']}.svc.cluster.local:5000",
        "localhost:9999",
    ):
        assert answer(host) == 200, host
    assert answer("elsewhere.example.org") == 403
    assert answer("localhost:1", None) == 401 and answer("localhost:1", ("admin", "wrong")) == 401
    artifact = f"{address}/api/2.0/mlflow-artifacts/artifacts/probe.txt"
    local = {"Host": "localhost:1"}
    put = requests.put(artifact, data=b"bytes", headers=local, auth=("admin", password), timeout=60)
    assert put.status_code == 200, put.text
    got = requests.get(artifact, headers=local, auth=("admin", password), timeout=60)
    assert got.content == b"bytes"


def test_zenml(home, container):
    """Tables, the administrator, and secrets that need the key."""
    password = "a long password: /@%"
    secrets = {
        "zenml-database": {"username": mariadb.USER, "password": home.secret("mariadb.zenml")},
        "zenml-server": {"admin-password": password, "jwt-key": "j" * 32, "encryption-key": "e" * 32},
    }
    changes = {"ZENML_STORE_URL": mariadb.url(home) + f"/{mariadb.DATABASE}"}
    server = container("zenml", secrets, changes, home.port("zenml"))
    address = f"http://{HOST}:{server.port}/api/v1"
    form = {"username": "admin", "password": password}
    login = requests.post(f"{address}/login", data=form, timeout=60)
    assert login.status_code == 200, login.text
    bearer = {"Authorization": f"Bearer {login.json()['access_token']}"}
    made = requests.post(
        f"{address}/secrets", json={"name": "probe", "values": {"k": "v"}}, headers=bearer, timeout=60
    )
    assert made.status_code == 200, made.text
    info = requests.get(f"{address}/info", timeout=60).json()
    assert info["active"] is True and info["deployment_type"] == "kubernetes"
    assert requests.post(f"{address}/login", data=form | {"password": "x"}, timeout=60).status_code == 401


def test_the_databases_first_statements(objects, home):
    """PostgreSQL's image runs the file once, as the administrator; here on databases of other names."""
    name = next(key for key in of_kind(objects, "ConfigMap") if key.startswith("mlflow-database"))
    text = of_kind(objects, "ConfigMap")[name]["data"]["mlflow.sql"]
    text = text.replace("DATABASE mlflow", "DATABASE probe")
    to = ["--host", HOST, "--port", str(home.port("postgres")), "--no-psqlrc", "--tuples-only", "--no-align"]
    done = subprocess.run(
        ["psql", *to, "--username", postgres.ADMIN, "--dbname", "postgres", "--set=ON_ERROR_STOP=1"],
        input=text,
        env={
            "PATH": os.environ["PATH"],
            "PGPASSWORD": home.secret("postgres.admin"),
            "MLFLOW_USER": "probe",
            "MLFLOW_PASSWORD": 'it\'s "quoted" $HOME',
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for database in ("probe", "probe_auth"):
        asked = subprocess.run(
            ["psql", *to, "--username", "probe", "--dbname", database, "-c", "CREATE TABLE t(); SELECT 1"],
            env={"PATH": os.environ["PATH"], "PGPASSWORD": 'it\'s "quoted" $HOME'},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert asked.stdout.split()[-1] == "1", asked.stderr
