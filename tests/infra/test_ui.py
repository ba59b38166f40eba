"""`make ui`: both servers start on this checkout's runs, answer, and go when they are told to."""

import os
import signal
import socket
import subprocess
import sys
import time

import requests

from tests.pipelines.project import Project


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def test_both_uis_answer_and_stop(tmp_path):
    project = Project(tmp_path)
    ports = {"MLFLOW_PORT": str(free_port()), "ZENML_PORT": str(free_port())}
    log = tmp_path / "ui.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "infra.local.ui"],
            cwd=project.folder,
            env=project.environment | ports,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 240
        while "Ctrl-C stops both" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.5)
        assert "MLflow" in requests.get(f"http://127.0.0.1:{ports['MLFLOW_PORT']}", timeout=10).text
        info = requests.get(f"http://127.0.0.1:{ports['ZENML_PORT']}/api/v1/info", timeout=10).json()
        assert info["active"]
        for port in ports.values():
            assert f"http://127.0.0.1:{port}" in log.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    for port in ports.values():
        with socket.socket() as one:
            assert one.connect_ex(("127.0.0.1", int(port))) != 0
