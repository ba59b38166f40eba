"""A step that is asked to stop: its pod is evicted, deleted, or its machine taken away.

Kubernetes sends SIGTERM and waits for the pod's grace period. ZenML's own handler asks its server from inside the
signal, which may wait for a lock that the interrupted code holds, and raises what a library's `except Exception` may
swallow. So a step only leaves what it is doing, by an exception that nobody catches, and then lets ZenML's handler say
whether the run was stopped by hand. Tuning has a handler of its own (`regrow.tune.follow`): it hands the signal to the
workers, which save.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zenml.exceptions import RunStoppedException

from regrow.errors import InterruptedRunError


class _AskedToStop(BaseException):
    """SIGTERM came."""


@contextmanager
def preemptible() -> Iterator[None]:
    """Leave the block at SIGTERM.

    Raises:
        InterruptedRunError: SIGTERM came; the step goes on from what it has kept when it is run again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def handle(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: cleaning up is not interrupted
        raise _AskedToStop

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    except _AskedToStop:
        _unless_stopped_by_hand(before)
        raise InterruptedRunError(
            "the step was stopped (SIGTERM); run again, it goes on from what it has kept"
        ) from None
    except InterruptedRunError:  # of a part that has handled the signal itself
        _unless_stopped_by_hand(before)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _unless_stopped_by_hand(handler: Any) -> None:
    """Ask ZenML's handler whether the whole run was stopped: then the step is not tried again.

    Raises:
        RunStoppedException: it was.
    """
    if not callable(handler):
        return
    try:
        handler(signal.SIGTERM, None)
    except RunStoppedException:
        raise
    except Exception:  # ZenML's word for everything else
        return
