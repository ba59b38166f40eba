"""Who promotes: a person for the record, and whether the promoter of a line may be at work."""

import getpass
import os
import platform
from datetime import datetime

from regrow.processes import seconds_left
from regrow.promotion.record import Begun


def identity() -> str:
    """Return who promotes: the user of the MLflow server, or of this machine, and the host."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if not user:
        try:
            user = getpass.getuser()
        except (OSError, KeyError):  # a container's user without a name
            user = f"uid {os.getuid()}"
    return f"{user}@{platform.node()}"


def alive(begun: Begun) -> str | None:
    """Return what to wait for if a line's promoter may be at work; None if it is dead, or has given up."""
    one = begun.process
    began = datetime.fromisoformat(begun.when.replace("Z", "+00:00"))
    left = seconds_left(one, begun.hash, began, begun.lease)
    if not left:
        return None
    where = f"process {one.pid} of {one.host.split()[0]}"
    return f"wait for {where}, which is taken for dead in {int(left) + 1} s,"
