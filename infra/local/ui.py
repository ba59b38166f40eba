"""Start the two web UIs of this checkout's runs: `make ui`.

The dashboard is ZenML's own server on the user's own ZenML database, without a login to it: the user's
client settings are not touched. Ctrl-C stops both.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests
from zenml.client import Client
from zenml.zen_stores.sql_zen_store import SqlZenStore

from infra.local.stack import activate_local_stack, tracking_uri

MLFLOW_PORT = int(os.environ.get("MLFLOW_PORT", "5000"))
ZENML_PORT = int(os.environ.get("ZENML_PORT", "8237"))


def main() -> int:
    """Start both servers, wait until they answer, print where, and stay until interrupted."""
    # Also where the shell started this in the background, which makes Python ignore Ctrl-C.
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, _interrupt)
    root = Path.cwd()
    activate_local_stack(root)
    servers = {f"http://127.0.0.1:{MLFLOW_PORT}": (_mlflow(root), "MLflow UI")}
    store = Client().zen_store
    if isinstance(store, SqlZenStore):
        url = f"http://127.0.0.1:{ZENML_PORT}"
        servers[url] = (_zenml(store.url), "ZenML dashboard (no login)")
    else:
        sys.stdout.write(f"ZenML dashboard: {store.url} (your ZenML server)\n")
    try:
        for url, (process, name) in servers.items():
            _wait(url, process, name)
            sys.stdout.write(f"{name}: {url}\n")
        sys.stdout.write("Ctrl-C stops both.\n")
        sys.stdout.flush()
        while all(process.poll() is None for process, _ in servers.values()):
            time.sleep(0.5)
        return 1
    except KeyboardInterrupt:
        return 0
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    finally:
        for process, _ in servers.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(timeout=20)


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)


def _mlflow(root: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking_uri(root),
        "--host", "127.0.0.1", "--port", str(MLFLOW_PORT), "--workers", "1",
    ]  # fmt: skip
    return _start(command, dict(os.environ), "mlflow")


def _zenml(database: str) -> subprocess.Popen[bytes]:
    settings = {
        "ZENML_STORE_TYPE": "sql",
        "ZENML_STORE_URL": database,
        "ZENML_SERVER_DEPLOYMENT_TYPE": "local",
        "ZENML_SERVER_AUTH_SCHEME": "NO_AUTH",
        "ZENML_SERVER_AUTO_ACTIVATE": "true",
        # The server's own configuration lies apart: nothing of it enters the user's.
        "ZENML_CONFIG_PATH": tempfile.mkdtemp(prefix="regrow-dashboard-"),
    }
    command = [
        sys.executable, "-m", "uvicorn", "zenml.zen_server.zen_server_api:app", "--host", "127.0.0.1",
        "--port", str(ZENML_PORT), "--log-level", "warning",
    ]  # fmt: skip
    return _start(command, os.environ | settings, "zenml")


def _start(command: list[str], environment: dict[str, str], name: str) -> subprocess.Popen[bytes]:
    log = Path("runs") / f"{name}-ui.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("wb") as stream:
        return subprocess.Popen(
            command, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )


def _wait(url: str, process: subprocess.Popen[bytes], name: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(
                f"{name}: stopped; see runs/*-ui.log (a port in use? set MLFLOW_PORT or ZENML_PORT)"
            )
        try:
            if requests.get(url, timeout=2).ok:
                return
        except requests.RequestException:
            time.sleep(0.5)
    raise RuntimeError(f"{name}: did not answer at {url} within {seconds:.0f} s; see runs/*-ui.log")


if __name__ == "__main__":
    sys.exit(main())
