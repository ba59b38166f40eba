"""A folder into a store."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from regrow.transfer.remote import Remote
from regrow.transfer.retry import persist

_SMALL = 64 * 2**20  # what larger files need at one time the store's own upload does


def send(remote: Remote, folder: Path, uri: str) -> None:
    """Store every file of `folder` below `uri`.

    Small files go at one time, large ones one by one in parts that go at one time. A file that fails is sent again.

    Raises:
        RegrowError: the store did not answer for too long, or refuses the files.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    small = [file for file in files if file.stat().st_size <= _SMALL]
    stop = threading.Event()

    def put(file: Path) -> None:
        target = f"{uri}/{file.relative_to(folder).as_posix()}"
        persist(lambda: remote.put(file, target), target, stop)

    try:
        for file in files:
            if file not in small:
                put(file)
        with ThreadPoolExecutor(max_workers=8) as pool:
            try:
                list(pool.map(put, small))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        stop.set()
