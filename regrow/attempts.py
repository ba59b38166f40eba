"""The tries of a step: one that ended without a word is told of by the next.

When a whole container is killed, for want of memory or with its machine, nobody is left to say so. While a step works,
a file in its working folder says since when, and how much memory it has taken; it goes when the step ends by itself.
"""

import logging
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from regrow import memory
from regrow.errors import InputError
from regrow.files import read_json, write_json

log = logging.getLogger(__name__)

_FILE = "attempt.json"
_EVERY = 5.0  # seconds between two notes
_FULL = 0.9  # share of the limit from which on memory is the likely reason


class Attempt:
    """This try of a step.

    Args:
        work: the step's working folder, which outlives the pod and the run.
        run: the run that this try belongs to.
        already: seconds that this try has taken by now.

    Attributes:
        lost: seconds that an earlier try of the same run worked before it was killed. What one of another run lost is
            told of, and is not this run's to pay.
    """

    def __init__(self, work: Path, run: str = "", already: float = 0.0) -> None:
        self._work, self._file, self._run = work, work / _FILE, run
        self._started, self._noted = time.time() - already, 0.0
        self.lost = self._earlier()
        self.note(0)

    def note(self, peak: int) -> None:
        """Keep how long and how large this try is by now."""
        now = time.time()
        if now - self._noted < _EVERY:
            return
        self._noted = now
        found = memory.read()
        record = {"run": self._run, "started": self._started, "seen": now, "peak": peak, **asdict(found)}
        record["peak"] = max(peak, found.peak or 0)
        with suppress(OSError):  # a full disk is the step's own matter
            write_json(self._file, record)

    def end(self) -> None:
        """The step ends by itself."""
        self._file.unlink(missing_ok=True)

    def _earlier(self) -> float:
        try:
            last: dict[str, Any] = read_json(self._file)
            seconds, peak, limit = last["seen"] - last["started"], last["peak"], last["limit"]
        except (InputError, KeyError, TypeError):
            return 0.0
        full = limit is not None and peak >= _FULL * limit
        log.warning(
            "an earlier try of this step was killed after about %.0f s without a word, %s; %s",
            seconds,
            "most likely for want of memory" if full else "with its container or its machine",
            memory.words(memory.Memory(limit, peak), memory.estimated(self._work)),
        )
        return max(0.0, float(seconds)) if last.get("run") == self._run else 0.0
