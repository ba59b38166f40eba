"""A real MLflow server: it takes no local path outside of the run as a source, so the files go there, once."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from regrow.checkpoint import digest_of
from regrow.registry import RegistrySpec, find, register
from regrow.registry.alterations import alterations
from tests.registry.stored import store, weights_below


@pytest.fixture
def http_server(tmp_path, empty_database, monkeypatch):
    import shutil

    import mlflow

    shutil.copyfile(empty_database, tmp_path / "server.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=tmp_path)
    address = f"http://127.0.0.1:{port}"
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).read()
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()[-2000:]
                time.sleep(0.5)
        mlflow.set_tracking_uri(address)
        yield tmp_path / "artifacts"
    finally:
        mlflow.set_tracking_uri(before)
        process.terminate()
        process.wait()


# tests/servers has the same with PostgreSQL and S3; a server's start takes longer than all other tests here.
@pytest.mark.processes
def test_a_stored_checkpoint_is_uploaded_once_and_its_version_lies_in_the_run(http_server, tiny, tmp_path):
    import mlflow

    folder = store(tiny, tmp_path / "store")
    spec = RegistrySpec(name="served")
    done = register(tiny, spec, tags={}, metrics={"recovery": 0.5}, stored=str(folder))
    assert done.source.startswith("mlflow-artifacts:")
    assert f"/{done.run_id}/artifacts/models/" in done.source
    assert len(weights_below(http_server)) == 1
    again = register(tiny, spec, tags={}, metrics={"recovery": 0.5}, stored=str(folder))
    assert again.version == done.version and len(weights_below(http_server)) == 1
    found = find("served@challenger")
    assert found.finished and found.metrics == {"recovery": 0.5}
    back = Path(mlflow.artifacts.download_artifacts(done.uri, dst_path=str(tmp_path / "back")))
    assert digest_of(back / "checkpoint") == tiny.digest
    assert alterations(back, tiny.digest) == []
    assert mlflow.transformers.load_model(str(back))("Grass", max_new_tokens=2)
