"""Where a step works, and what it used: both outlive a killed run or describe a finished one."""

import fcntl
import itertools
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
from pydantic_core import to_jsonable_python
from zenml import get_step_context, log_metadata

from regrow import memory
from regrow.attempts import Attempt
from regrow.errors import RegrowError
from regrow.files import canonical_digest
from regrow.tune.follow import OutOfMemoryError
from steps import cost
from steps.preemption import preemptible

log = logging.getLogger(__name__)

_LOCK = ".lock"  # holds the id of the run that works in the folder
_SUCCESSOR = ".successor"  # is there while a later try of the step waits for the folder
_FORGOTTEN = 7 * 24 * 3600.0  # seconds
_TAKEN: dict[str, int] = {}  # locks of the folders that this process works in, until it ends


def work_dir() -> Path:
    """Return the folder of this step's work: below `$REGROW_WORK` or `runs/work`, by the step and by what goes into it.

    Shards and training checkpoints stay there until the pipeline has succeeded, so that a run that was
    killed goes on from them. On a cluster it is a volume that outlives the pod. The same step with the same parameters
    and inputs has the same folder in every run; another run that is at work there at this moment has it alone, and this
    one takes another.
    """
    step = get_step_context().step_run
    place = Path(os.environ.get("REGROW_WORK", "runs/work")).absolute() / step.name
    key, run = _key(step), str(step.pipeline_run_id)
    # A retried step goes back to where it was, also when a folder before it has become free since.
    mine = [lock.parent for lock in sorted(place.glob(f"{key}*/.lock")) if _holder(lock) == run]
    others = (place / (key if number == 1 else f"{key}-{number}") for number in itertools.count(1))
    return next(
        folder
        for folder in itertools.chain(mine, others)
        if (str(folder) in _TAKEN and folder.exists()) or _take(folder, run)
    )


def claim(folder: Path) -> None:
    """Say that a folder that several pods share is this run's, which clears it away at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _LOCK).write_text(str(get_step_context().step_run.pipeline_run_id), encoding="utf-8")


def _holder(lock: Path) -> str:
    try:
        return lock.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _key(step: Any) -> str:
    """Digest of what goes into a step; not of its code: what is kept there has digests of its own for that."""
    inputs = {
        name: [one.content_hash or str(one.id) for one in versions] for name, versions in step.inputs.items()
    }
    return canonical_digest([to_jsonable_python(step.config.parameters), inputs])[:12]


def _take(folder: Path, run: str) -> bool:
    """Lock a folder for as long as this process lives; False if another run has it.

    An earlier pod of this very run may still be at work when its successor starts. It may be saving, or know nothing of
    it: ZenML tries a step again when the pod that waits for the one with the GPU is lost, and then nobody wants the
    first one's results any more. So it is asked to save and leave (`measured`), and the successor waits until it has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    if not _free(lock):
        if os.pread(lock, 64, 0).decode() != run:
            os.close(lock)
            return False
        log.info(
            "%s: an earlier try of this step is still at work there; it is asked to save and leave", folder
        )
        while not _free(lock):
            (folder / _SUCCESSOR).touch()
            time.sleep(0.5)
    (folder / _SUCCESSOR).unlink(missing_ok=True)
    os.ftruncate(lock, 0)
    os.pwrite(lock, run.encode(), 0)
    if (gone := _TAKEN.pop(str(folder), None)) is not None:  # of a folder that an earlier run has cleared
        os.close(gone)
    _TAKEN[str(folder)] = lock
    return True


def _free(lock: int) -> bool:
    """Lock a file unless another process holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def cache_folder() -> Path:
    """Return the folder of results that are worth keeping between runs, such as scores by model digest."""
    return Path(os.environ.get("REGROW_WORK", "runs/work")).absolute().parent / "cache"


def fresh(folder: Path) -> Path:
    """Return `folder` after removing what an earlier, killed run may have left there."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def clear_work(run: str) -> None:
    """Remove the unfinished work of a run on pods, whose last step this is: everything lies in the artifact store now.

    What another run has left stays, since its pods may only be between two tries; after a week nobody waits for it any
    more. On one machine whoever started the run clears up.
    """
    root = Path(os.environ.get("REGROW_WORK", ""))
    if not root.is_absolute():
        return
    for lock in sorted(root.glob(f"*/*/{_LOCK}")):
        folder = lock.parent
        if _holder(lock) not in (run, "") and time.time() - lock.stat().st_mtime < _FORGOTTEN:
            continue
        if str(folder) in _TAKEN or _take(folder, ""):
            shutil.rmtree(folder, ignore_errors=True)
    for folder in sorted(root.glob("*")):
        with suppress(OSError):  # not empty: another run works there
            folder.rmdir()
    with suppress(OSError):
        root.rmdir()


@contextmanager
def measured() -> Iterator[None]:
    """Do a step's work: log what it used, leave it when the pod is asked to stop, and tell why memory did not suffice.

    A later try of the step that waits for the same folder asks for the same.

    Wall time and the peak memory of the process tree go to ZenML and MLflow (`steps.cost`), also when the step fails.
    In a pod the time begins with the process, which has fetched the inputs while it held its GPUs.

    Raises:
        InterruptedRunError: SIGTERM came.
        RegrowError: as raised by the work; with limit, peak and estimate if the kernel has killed a process of it.
    """
    already = cost.already()
    started = time.monotonic() - already
    done = threading.Event()
    work = work_dir()
    run = get_step_context().step_run
    attempt, peak, kills = Attempt(work, str(run.pipeline_run_id), already), [0], memory.read().kills or 0
    step = run.id
    may_be_asked = threading.current_thread() is threading.main_thread()  # else nothing handles the signal

    def watch() -> None:
        told, asked = False, not may_be_asked
        while True:
            peak[0] = max(peak[0], _tree_memory())
            attempt.note(peak[0])
            if not told and (need := memory.estimated(work)) is not None:
                told = True
                # For whoever started the run: a container that is killed for memory says nothing any more.
                with suppress(Exception):
                    log_metadata({"estimated_bytes": need}, step_id=step)
            if not asked and (work / _SUCCESSOR).exists():
                asked = True
                log.warning("a later try of this step waits for %s: this one saves and leaves", work)
                os.kill(os.getpid(), signal.SIGTERM)
            if done.wait(0.5):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with preemptible():
            yield
    except RegrowError as error:
        if isinstance(error, OutOfMemoryError) or (memory.read().kills or 0) > kills:
            raise type(error)(f"{error}; {memory.words(memory.read(), memory.estimated(work))}") from error
        raise
    finally:
        done.set()
        watcher.join()
        attempt.end()
        failed = sys.exception() is not None
        found = cost.facts(time.monotonic() - started, peak[0], attempt.lost)
        # A server that is away must not hide why the step failed.
        with suppress(Exception) if failed else nullcontext():
            log_metadata(found)
            cost.log_facts(get_step_context().step_run.name, found)


def _tree_memory() -> int:
    """Resident memory of this process and its children, memory-mapped weights included."""
    total = 0
    this = psutil.Process()
    for process in [this, *this.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
