"""Who is at work: a process that can be told from a dead one, on this machine and, by a time limit, on another."""

import contextlib
import os
import platform
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

# What threads of this process are at work on, by names that nothing else has.
AT_WORK: set[str] = set()


class Process(BaseModel):
    """A process, so that another can tell a slow one from a dead one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(description="host name and process namespace")
    pid: int = Field(description="process id there")
    started: float = Field(description="when the process started, seconds since the epoch")


def this_process() -> Process:
    """Return what tells this process from every other."""
    import psutil

    return Process(host=_host(), pid=os.getpid(), started=psutil.Process().create_time())


def seconds_left(process: Process, work: str, began: datetime, lease: float) -> float:
    """Return for how long a piece of work may still be going on; 0 if it is dead, or was given up.

    Args:
        process: who began it.
        work: its name; while its own process is at work on it, it is in `AT_WORK` there.
        began: when it began.
        lease: seconds after which it is taken for dead, wherever it runs.
    """
    if process.host == _host() and not _is_there(process, work):
        return 0.0
    left = began + timedelta(seconds=lease) - datetime.now(began.tzinfo)
    return max(0.0, left.total_seconds())


def _is_there(process: Process, work: str) -> bool:
    import psutil

    if process.pid == os.getpid():
        return work in AT_WORK
    try:
        return bool(abs(psutil.Process(process.pid).create_time() - process.started) < 1)
    except psutil.Error:
        return False


def _host() -> str:
    namespace = ""
    with contextlib.suppress(OSError):  # not Linux
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return f"{platform.node()} {namespace}".strip()
