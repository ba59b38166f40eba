"""A program, run in a process of its own as a client of the servers: the two-step pipeline, or another."""

import json
import subprocess
import sys
from pathlib import Path

from tests.servers.running import Servers


def client(
    servers: Servers, folder: Path, *words: str, module: str = "tests.servers.two_steps", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the client program with a HOME of its own."""
    folder.mkdir(exist_ok=True)
    environment = servers.client_environment(folder) | servers.variables | variables
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def result(done: subprocess.CompletedProcess[str]) -> dict:
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(lines[-1].removeprefix("RESULT "))
