"""The vLLM environment, and a real server in it."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests

from regrow.checkpoint import Checkpoint

ROOT = Path(__file__).parents[2]
VLLM = ROOT / ".venv-vllm"
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}


@pytest.fixture(scope="session")
def python() -> Path:
    """The Python that has vLLM."""
    if not (VLLM / ".ready").exists():
        pytest.fail(f"there is no vLLM in {VLLM}; run these tests by: make test-vllm", pytrace=False)
    return VLLM / "bin" / "python"


@contextmanager
def vllm_serve(python: Path, model: Checkpoint, log: Path, port: int) -> Iterator[subprocess.Popen]:
    """Run vLLM's server until it answers; it is killed, with its children, at the end."""
    # The module behind `vllm serve`: the command itself looks for a package named vllm, which this build is not.
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model.folder]
    command += ["--served-model-name", "smollm2", "--port", str(port)]
    # float32, so that what differs from transformers is rounding of the last bits.
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "16"]
    with log.open("a") as stream:
        server = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=os.environ | ENVIRONMENT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 300
        while True:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"vllm serve did not start:\n{log.read_text()[-3000:]}", pytrace=False)
            try:
                if requests.get(f"http://127.0.0.1:{port}/health", timeout=2).ok:
                    break
            except requests.RequestException:
                time.sleep(0.5)
        yield server
    finally:
        kill(server)


def kill(server: subprocess.Popen) -> None:
    """Kill a server and its children at once (SIGKILL)."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture(scope="module")
def start(python, tmp_path_factory) -> Iterator[Callable[[Checkpoint], tuple[subprocess.Popen, str]]]:
    """A function that starts a server of a model, on the same port every time, and returns it with its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm-serve") / "log"
    with ExitStack() as stack:

        def begin(model: Checkpoint) -> tuple[subprocess.Popen, str]:
            return stack.enter_context(vllm_serve(python, model, log, port)), f"http://127.0.0.1:{port}/v1"

        yield begin
