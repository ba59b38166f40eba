"""A vLLM server as a child process."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from regrow.errors import RegrowError

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
# Set before vLLM is imported.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
}
_START_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    url: str

    def kill(self) -> None:
        """Kill it and its children at once (SIGKILL)."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def python() -> Path:
    """Return the Python that has vLLM.

    Raises:
        RegrowError: the environment is not there.
    """
    if not (ROOT / ".venv-vllm" / ".ready").exists():
        raise RegrowError("there is no vLLM here; `make .venv-vllm/.ready` installs it")
    return PYTHON


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def vllm_serve(
    model: Path, name: str, log: Path, port: int, *, dtype: str = "auto", max_num_seqs: int = 16
) -> Iterator[Server]:
    """Serve a model folder until the block ends; entered when the server answers.

    Args:
        model: checkpoint folder.
        name: the model's name in the API.
        log: file that the server's output is appended to.
        port: where it listens on this machine.
        dtype: type of the computation; auto: the stored one.
        max_num_seqs: most sequences at one time.

    Raises:
        RegrowError: it ended, or did not answer in five minutes; the message has the end of its log.
    """
    # The module behind `vllm serve`: the command itself looks for a package named vllm, which the CPU build is not.
    command = [str(python()), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
    command += ["--served-model-name", name, "--port", str(port), "--dtype", dtype, "--enforce-eager"]
    command += ["--max-model-len", "1024", "--max-num-seqs", str(max_num_seqs)]
    with log.open("a") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, env=os.environ | ENVIRONMENT, start_new_session=True
        )
    server = Server(process, f"http://127.0.0.1:{port}/v1")
    try:
        _wait(server, port, log)
        yield server
    finally:
        server.kill()


def _wait(server: Server, port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise RegrowError(f"vLLM's server did not start:\n{log.read_text()[-3000:]}")
        try:
            with urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.5)
