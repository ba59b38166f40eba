"""Where a step works, and what it used: both outlive a killed run or describe a finished one."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from zenml import get_step_context, log_metadata


def work_dir() -> Path:
    """Return the folder of this step: `$REGROW_WORK` or `runs/work`, then the step's name in the pipeline.

    Shards and training checkpoints stay there until the pipeline has succeeded, so that a run that was
    killed goes on from them. On a cluster it is a volume that outlives the pod.
    """
    root = Path(os.environ.get("REGROW_WORK", "runs/work")).absolute()
    folder: Path = root / get_step_context().step_run.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cache_folder() -> Path:
    """Return the folder of results that are worth keeping between runs, such as scores by model digest."""
    return Path(os.environ.get("REGROW_WORK", "runs/work")).absolute().parent / "cache"


def fresh(folder: Path) -> Path:
    """Return `folder` after removing what an earlier, killed run may have left there."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@contextmanager
def measured() -> Iterator[None]:
    """Log the step's wall time and the peak memory of its process tree, in bytes, to ZenML."""
    started = time.monotonic()
    done = threading.Event()
    peak = [0]

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], _tree_memory())
            if done.wait(0.5):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    log_metadata({"seconds": round(time.monotonic() - started, 2), "peak_memory_bytes": peak[0]})


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
