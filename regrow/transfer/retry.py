"""Trying again: how long, how often, and what is not worth it."""

import errno
import logging
import os
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from regrow.errors import InputError, RegrowError

log = logging.getLogger(__name__)
T = TypeVar("T")

_FIRST, _LONGEST = 0.5, 15.0  # seconds between two tries
# What another try gives again. s3fs and botocore name missing keys in types of their own.
_FINAL = (FileNotFoundError, IsADirectoryError, RegrowError, ImportError)
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # on this machine's disk
_FINAL_NAMES = {"NoCredentialsError", "PartialCredentialsError", "ParamValidationError"}


class StoppedError(Exception):
    """Another part has failed for good, or the process is to end."""


def patience() -> float:
    """Return the seconds without a single byte after which a transfer fails.

    Raises:
        InputError: REGROW_TRANSFER_PATIENCE is not a number.
    """
    given = os.environ.get("REGROW_TRANSFER_PATIENCE", "300")
    try:
        return float(given)
    except ValueError:
        raise InputError(f"REGROW_TRANSFER_PATIENCE={given}: not a number of seconds") from None


def persist(
    work: Callable[[], T],
    what: str,
    stop: threading.Event,
    progress: Callable[[], int] = lambda: 0,
) -> T:
    """Call `work` until it succeeds, waiting ever longer between the tries.

    Args:
        work: may be called again after any failure.
        what: its name in messages.
        stop: ends the waiting.
        progress: a number that grows when a failed try has come further; patience then starts anew.

    Raises:
        RegrowError: nothing came for too long, or access is denied.
        StoppedError: `stop` was set.
        OSError: another try would not help: the object is not there, or the disk is full.
    """
    limit, delay, seen = patience(), _FIRST, progress()
    since = 0.0  # of the first failure without progress
    while True:
        if stop.is_set():
            raise StoppedError(what)
        try:
            return work()
        except PermissionError as error:
            raise RegrowError(f"{error}; check the keys of the artifact store") from error
        except (*_FINAL, StoppedError):
            raise
        except Exception as error:
            if type(error).__name__ in _FINAL_NAMES or getattr(error, "errno", None) in _NO_ROOM:
                raise
            if progress() != seen or not since:
                delay, seen, since = _FIRST, progress(), time.monotonic()
            elif time.monotonic() - since > limit:
                raise RegrowError(
                    f"{what}: nothing came for {limit:.0f} s ({error}); is the store reachable? What has arrived "
                    "is kept: the same command goes on from there"
                ) from error
            log.warning("%s: %s; next try in %.1f s", what, error, delay)
            stop.wait(delay * random.uniform(0.8, 1.2))  # noqa: S311 - so that not all tries come at once
            delay = min(2 * delay, _LONGEST)
