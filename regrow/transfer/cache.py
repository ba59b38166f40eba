"""What was fetched is kept on the machine, once for all of its pods and runs, under the digest of its content.

    <root>/<key>/             the files; appears by a rename
    <root>/.<key>.json        their names and sizes; its time is when they were last asked for
    <root>/.<key>.partial/    what is being fetched, or was when its process died
    <root>/.<key>.lock        held exclusively by who fetches or removes, shared by every process that uses the files

Locks are `flock`: they go with the process that holds them, and reach over pods of one machine and over NFS.
"""

import fcntl
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from regrow.errors import InputError, RegrowError
from regrow.files import beside, cache_dir, safe_member, write_json

log = logging.getLogger(__name__)

Fill = Callable[[Path], dict[str, str]]
_WAITING = "another process is fetching it; waiting"
_SPARE = 256 * 2**20  # bytes of the disk that are left free
_HELD: dict[Path, int] = {}  # locks of what this process uses, until it ends
_HELD_GUARD = threading.Lock()


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    used: float
    bytes: int


class NodeCache:
    """A folder of artifacts by digest.

    Args:
        root: the folder; `artifacts` in regrow's cache if not given.
        limit: bytes above which the least recently used goes; REGROW_CACHE_MAX_BYTES if not given, else no limit.

    Raises:
        InputError: REGROW_CACHE_MAX_BYTES is not a number.
    """

    def __init__(self, root: Path | None = None, limit: int | None = None) -> None:
        self.root = root or cache_dir() / "artifacts"
        self.limit = _limit() if limit is None else limit
        self.root.mkdir(parents=True, exist_ok=True)

    def get(self, key: str, sizes: Mapping[str, int], fill: Fill) -> tuple[Path, dict[str, str]]:
        """Return the folder of a key; it is there, and stays, until this process ends.

        Args:
            key: digest of the content.
            sizes: bytes of each file by name.
            fill: fetches the files into a folder, which may hold what an earlier call has fetched, and returns their
                SHA-256.

        Returns:
            The folder, and the digests of its files if they have just been fetched: of what lay there only the
            sizes were looked at.

        Raises:
            RegrowError: the key is no name of a folder, the disk has no room, or what `fill` raises.
        """
        if not safe_member(key) or "/" in key:
            raise RegrowError(f"{key}: no digest of stored files; run the step that stored them again")
        place = self.root / key
        known: dict[str, str] = {}
        while True:
            self._hold(key)
            if self._whole(key, sizes):
                os.utime(self._marker(key))
                return place, known
            if place.exists():  # cut short, or of an older regrow
                self.drop(key)
            self._release(key)
            with _locked(self._lock(key), fcntl.LOCK_EX, f"{key[:12]}: {_WAITING}"):
                if not self._whole(key, sizes):
                    known = self._fetch(key, sizes, fill)

    def drop(self, key: str) -> None:
        """Remove what lies under a key, because it is not what it should be; who has it open may read on."""
        _remove(self.root / key)
        self._marker(key).unlink(missing_ok=True)
        # Who uses what is gone must not hold up who fetches it anew: that one makes a lock of its own.
        self._lock(key).unlink(missing_ok=True)
        self._release(key)

    def _fetch(self, key: str, sizes: Mapping[str, int], fill: Fill) -> dict[str, str]:
        place, partial = self.root / key, self.root / f".{key}.partial"
        self._make_room(key, sum(sizes.values()) - _bytes_on_disk(partial))
        partial.mkdir(exist_ok=True)
        write_json(self._marker(key), dict(sizes))  # counts from now on
        known = fill(partial)
        _remove(place)
        partial.rename(place)
        return known

    def _whole(self, key: str, sizes: Mapping[str, int]) -> bool:
        place = self.root / key
        try:
            return (
                place.is_dir()
                and self._marker(key).exists()
                and all((place / name).stat().st_size == size for name, size in sizes.items())
            )
        except FileNotFoundError:
            return False

    def _make_room(self, key: str, more: int) -> None:
        """Remove the least recently used until `more` bytes fit under the limit and on the disk."""
        with _locked(self.root / ".evict.lock", fcntl.LOCK_EX, "waiting for room in the cache"):
            entries = sorted(self._entries(), key=lambda one: one.used)
            there = sum(one.bytes for one in entries if one.key != key)
            for one in entries:
                fits = self.limit is None or there + more <= self.limit
                if fits and self._free() >= more + _SPARE:
                    return
                if one.key != key and self._evict(one):
                    there -= one.bytes
            if self._free() < more:
                raise RegrowError(
                    f"{self.root}: {more / 2**30:.1f} GiB are needed and {self._free() / 2**30:.1f} GiB are free; "
                    "free space there, or name another disk in REGROW_CACHE"
                )
            if self.limit is not None and there + more > self.limit:
                log.warning(
                    "%s: holds more than REGROW_CACHE_MAX_BYTES allows, for what is in use is not removed", self.root
                )  # fmt: skip

    def _evict(self, entry: _Entry) -> bool:
        """Remove an entry that nobody uses."""
        lock = os.open(self._lock(entry.key), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_that(lock, self._lock(entry.key)):
                return False
            _remove(self.root / f".{entry.key}.partial")
            (self.root / f".{entry.key}.partial.journal").unlink(missing_ok=True)
            self.drop(entry.key)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        log.info("%s: removed %s, %.1f GiB", self.root, entry.key[:12], entry.bytes / 2**30)
        return True

    def _entries(self) -> Iterator[_Entry]:
        for marker in self.root.glob(".*.json"):
            try:
                count = sum(json.loads(marker.read_text(encoding="utf-8")).values())
                yield _Entry(marker.name[1:].removesuffix(".json"), marker.stat().st_mtime, count)
            except (FileNotFoundError, ValueError):
                continue

    def _free(self) -> int:
        return shutil.disk_usage(self.root).free

    def _marker(self, key: str) -> Path:
        return self.root / f".{key}.json"

    def _lock(self, key: str) -> Path:
        return self.root / f".{key}.lock"

    def _hold(self, key: str) -> None:
        """Take a share of a key's lock for as long as this process lives; wait for who has it alone."""
        path = self._lock(key).absolute()
        with _HELD_GUARD:
            if path not in _HELD:
                _HELD[path] = _acquire(path, fcntl.LOCK_SH, f"{key[:12]}: {_WAITING}")

    def _release(self, key: str) -> None:
        with _HELD_GUARD:
            lock = _HELD.pop(self._lock(key).absolute(), None)
        if lock is not None:
            os.close(lock)


@contextmanager
def _locked(path: Path, kind: int, waiting: str) -> Iterator[None]:
    lock = _acquire(path, kind, waiting)
    try:
        yield
    finally:
        os.close(lock)


def _acquire(path: Path, kind: int, waiting: str) -> int:
    """Open and lock the file that is at `path` when the lock is there: it may be replaced while we wait."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("%s", waiting)
                fcntl.flock(lock, kind)
            if _is_that(lock, path):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _is_that(lock: int, path: Path) -> bool:
    try:
        return os.fstat(lock).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False


def _remove(folder: Path) -> None:
    """Remove a folder so that it is either whole or not there."""
    old = beside(folder, "removed")
    with suppress(FileNotFoundError):
        folder.rename(old)
        shutil.rmtree(old, ignore_errors=True)


def _bytes_on_disk(folder: Path) -> int:
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())


def _limit() -> int | None:
    given = os.environ.get("REGROW_CACHE_MAX_BYTES", "")
    if not given:
        return None
    try:
        return int(given)
    except ValueError:
        raise InputError(f"REGROW_CACHE_MAX_BYTES={given}: not a whole number of bytes") from None
