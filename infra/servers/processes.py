"""Server processes: each with a group of its own, found again by another command, and stopped with all children."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from infra.servers.home import open_private
from infra.servers.programs import Account
from regrow.errors import RegrowError

# Every process of a service has it in its environment, with the service's folder as the value.
MARK = "REGROW_SERVER"


def start(
    command: Sequence[str],
    *,
    folder: Path,
    log: Path,
    environment: Mapping[str, str],
    account: Account | None = None,
) -> dict[str, Any]:
    """Start a server in the background and return its record.

    Args:
        command: without any secret: everybody on the machine can read it.
        folder: of the service; its working folder.
        log: where it writes, after what is there.
        environment: all of the process's environment.
        account: as whom it runs.
    """
    with open_private(log) as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, MARK: str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **(account.options if account else {}),  # type: ignore[call-overload]
        )
    return {"pid": process.pid, "created": psutil.Process(process.pid).create_time()}


def is_alive(record: Mapping[str, Any] | None) -> bool:
    """Tell whether the recorded process still runs, and is not another one with the same number."""
    if record is None:
        return False
    try:
        process = psutil.Process(record["pid"])
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - record["created"]) < 2
    except psutil.NoSuchProcess:
        return False


def members(folder: Path) -> list[psutil.Process]:
    """Return every living process of the service with this folder, children of killed parents included."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(MARK) == str(folder) or _is_backend(process, folder):
                found[process.pid] = process
                found.update({child.pid: child for child in process.children(recursive=True)})
        except (psutil.Error, OSError):
            continue  # gone, or somebody else's
    return [process for process in found.values() if _runs(process)]


def stop(record: Mapping[str, Any] | None, folder: Path, *, how: signal.Signals, seconds: float = 30) -> None:
    """Stop a service with all its processes: politely, and after a while not.

    Args:
        record: its first process, which is asked to stop.
        folder: of the service.
        how: the signal that asks.
        seconds: until it is killed.

    Raises:
        RegrowError: something would not die.
    """
    processes = members(folder)
    if record is not None and is_alive(record):
        os.kill(record["pid"], how)
    else:
        _signal(processes, signal.SIGTERM)
    _wait(processes, seconds)
    # Also what was started meanwhile, or outlived its parent.
    _signal(members(folder), signal.SIGTERM)
    _wait(members(folder), 5)
    for _ in range(10):
        left = members(folder)
        if not left:
            return
        _signal(left, signal.SIGKILL)
        _wait(left, 2)
    raise RegrowError(
        f"{folder.name}: processes {[one.pid for one in left]} would not stop, not even by SIGKILL"
    )


def wait_ready(
    name: str, record: Mapping[str, Any], log: Path, probe: Callable[[], object], seconds: float
) -> None:
    """Return as soon as `probe` raises nothing.

    Raises:
        RegrowError: the server stopped, or was not ready in time; with its last words and its log.
    """
    deadline = time.monotonic() + seconds
    last = "no answer"
    while time.monotonic() < deadline:
        if not is_alive(record):
            raise RegrowError(f"{name} stopped while it started; its log {log} ends:\n{_tail(log)}")
        try:
            probe()
            return
        except Exception as error:  # each client library has errors of its own for "not yet"
            last = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        time.sleep(0.25)
    raise RegrowError(
        f"{name} was not ready within {seconds:.0f} s ({last}); its log {log} ends:\n{_tail(log)}"
    )


def _is_backend(process: psutil.Process, folder: Path) -> bool:
    # PostgreSQL writes a title over its environment; its processes work in the data folder.
    return process.name() in ("postgres", "mariadbd") and Path(process.cwd()) == folder / "data"


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _wait(processes: Sequence[psutil.Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(_runs(process) for process in processes):
        time.sleep(0.1)


def _tail(log: Path, lines: int = 15) -> str:
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"
