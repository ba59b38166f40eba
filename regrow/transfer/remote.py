"""An object store, as far as a transfer needs it."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

_CHUNK = 2**20


class Store(Protocol):
    """What can be read in ranges and written whole."""

    def size(self, uri: str) -> int:
        """Return the bytes of an object."""

    def read(self, uri: str, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of an object from `start` to before `end`."""

    def put(self, file: Path, uri: str) -> None:
        """Make a file an object."""


class Remote:
    """The store behind an fsspec file system.

    Args:
        filesystem: returns the file system; asked before every call, so that one with fresh credentials is taken
            up when the old ones have expired.
    """

    def __init__(self, filesystem: Callable[[], Any]) -> None:
        self._filesystem = filesystem
        self._lock = threading.Lock()
        self._seen: tuple[Any, Store] | None = None

    def _store(self) -> Store:
        with self._lock:
            found = self._filesystem()
            if self._seen is None or self._seen[0] is not found:
                self._seen = (found, store_of(found))
            return self._seen[1]

    def size(self, uri: str) -> int:
        """Return the bytes of an object.

        Raises:
            FileNotFoundError: there is none.
        """
        return self._store().size(uri)

    def read(self, uri: str, start: int, end: int) -> Iterator[bytes]:
        """Yield the bytes of an object from `start` to before `end`."""
        return self._store().read(uri, start, end)

    def put(self, file: Path, uri: str) -> None:
        """Make a file an object."""
        self._store().put(file, uri)


def store_of(filesystem: Any) -> Store:
    """Return the way to an fsspec file system: boto3 for S3 with keys, fsspec's own for all others."""
    protocols = filesystem.protocol if isinstance(filesystem.protocol, tuple) else (filesystem.protocol,)
    if "s3" in protocols and not filesystem.anon:
        from regrow.transfer.s3 import S3Store

        return S3Store(filesystem)
    return _Fsspec(filesystem)


class _Fsspec:
    """Any file system of fsspec, by its own calls."""

    def __init__(self, filesystem: Any) -> None:
        self._filesystem = filesystem

    def size(self, uri: str) -> int:
        return int(self._filesystem.info(uri)["size"])

    def read(self, uri: str, start: int, end: int) -> Iterator[bytes]:
        data = memoryview(self._filesystem.cat_file(uri, start=start, end=end))
        for at in range(0, len(data), _CHUNK):
            yield bytes(data[at : at + _CHUNK])

    def put(self, file: Path, uri: str) -> None:
        self._filesystem.makedirs(uri.rpartition("/")[0], exist_ok=True)
        self._filesystem.put_file(str(file), uri)
