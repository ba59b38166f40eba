"""Who is at work: a person for the record, and a process that can be told from a dead one."""

import contextlib
import getpass
import os
import platform
from datetime import datetime, timedelta
from pathlib import Path

from regrow.promotion.record import Begun, Process

# Hashes of the lines that threads of this process are carrying out.
AT_WORK: set[str] = set()


def identity() -> str:
    """Return who promotes: the user of the MLflow server, or of this machine, and the host."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if not user:
        try:
            user = getpass.getuser()
        except (OSError, KeyError):  # a container's user without a name
            user = f"uid {os.getuid()}"
    return f"{user}@{platform.node()}"


def this_process() -> Process:
    """Return what tells this process from every other."""
    import psutil

    return Process(host=_host(), pid=os.getpid(), started=psutil.Process().create_time())


def alive(begun: Begun) -> str | None:
    """Return what to wait for if a line's promoter may be at work; None if it is dead, or has given up."""
    one = begun.process
    if one.host == _host() and not _is_there(one, begun):
        return None
    began = datetime.fromisoformat(begun.when.replace("Z", "+00:00"))
    left = began + timedelta(seconds=begun.lease) - datetime.now(began.tzinfo)
    if left <= timedelta(0):
        return None
    where = f"process {one.pid} of {one.host.split()[0]}"
    return f"wait for {where}, which is taken for dead in {int(left.total_seconds()) + 1} s,"


def _is_there(one: Process, begun: Begun) -> bool:
    import psutil

    if one.pid == os.getpid():
        return begun.hash in AT_WORK
    try:
        return bool(abs(psutil.Process(one.pid).create_time() - one.started) < 1)
    except psutil.Error:
        return False


def _host() -> str:
    namespace = ""
    with contextlib.suppress(OSError):  # not Linux
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return f"{platform.node()} {namespace}".strip()
