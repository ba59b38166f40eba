"""Files out of a store: in parts at one time, resumed, and hashed while they arrive.

Beside the target lies a journal with a line for each part that has arrived, and its CRC-32. A later call reads such
parts from the disk, and fetches one only if it is not what the journal says. The SHA-256 of a file follows its parts:
whoever completes the next part in turn hashes all that has arrived in one piece, from the page cache.
"""

import json
import logging
import os
import threading
import zlib
from collections.abc import Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tqdm import tqdm

from regrow.errors import RegrowError
from regrow.files import canonical_digest, full_disk_is_clear, safe_member
from regrow.transfer.remote import Remote
from regrow.transfer.retry import StoppedError, persist

log = logging.getLogger(__name__)

PART = 64 * 2**20
WORKERS = 8
_CHUNK = 2**20
_SHOWN = 64 * 2**20  # bytes from which on a bar is worth it


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a file has to be; None where that is not known.

    Attributes:
        size: bytes.
        sha256: digest, hexadecimal.
    """

    size: int | None = None
    sha256: str | None = None


def fetch(
    remote: Remote, uri: str, files: Mapping[str, Wanted], target: Path, *, part: int = PART
) -> dict[str, str]:
    """Fetch files into a folder; what an interrupted call has left there is taken up.

    Args:
        remote: the store.
        uri: what the files' names are relative to.
        files: what each has to be.
        target: the folder; beside it lies the journal while the work goes on.
        part: bytes of a part.

    Returns:
        SHA-256 by name.

    Raises:
        RegrowError: a name leads out of the folder, an object is missing or is not what it has to be, the store did not
            answer for too long, or the disk is full.
    """
    if wrong := [name for name in files if not safe_member(name)]:
        raise RegrowError(
            f"{uri}: its list of files has a name that leads out of it ({wrong[0]}); nothing was fetched"
        )
    files = sized(remote, uri, files)
    transfer = _Transfer(remote, uri, files, target, part)
    with full_disk_is_clear(target):
        found = transfer.run(list(files))
        # A part may have been damaged on the way: those files are fetched once more, whole.
        if again := transfer.wrong(found):
            log.warning("%s: %s did not arrive as stored; fetched again", uri, ", ".join(again))
            transfer.forget(again)
            found |= transfer.run(again)
    if wrong := transfer.wrong(found):
        name = wrong[0]
        transfer.forget(wrong)
        raise RegrowError(
            f"{uri}/{name}: the object is damaged: its SHA-256 is {found[name][:12]}, stored was "
            f"{str(files[name].sha256)[:12]}. Restore it or run the step that made it again"
        )
    transfer.journal.unlink(missing_ok=True)
    return found


def sized(remote: Remote, uri: str, files: Mapping[str, Wanted]) -> dict[str, Wanted]:
    """Return the files with the sizes that they have in the store.

    Raises:
        RegrowError: an object is missing or has not the size that it has to have, or the store did not answer for too
            long.
    """
    stop = threading.Event()

    def ask(name: str) -> Wanted:
        address, wanted = f"{uri}/{name}", files[name]
        try:
            size = persist(lambda: remote.size(address), address, stop)
        except FileNotFoundError:
            raise RegrowError(
                f"{address}: is missing in the store; restore it or run the step that made it again"
            ) from None
        if wanted.size not in (None, size):
            raise RegrowError(
                f"{address}: the object is damaged: it has {size} bytes, stored were {wanted.size}. Restore it or run "
                "the step that made it again"
            )
        return Wanted(size, wanted.sha256)

    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        try:
            return dict(zip(files, pool.map(ask, files), strict=True))
        except BaseException:
            stop.set()
            raise


class _Transfer:
    """One fetch: what is wanted, what the journal holds, and who is at work."""

    def __init__(
        self, remote: Remote, uri: str, files: Mapping[str, Wanted], target: Path, part: int
    ) -> None:
        self.remote, self.uri, self.files, self.target, self.part = remote, uri, files, target, part
        self.journal = target.with_name(f"{target.name}.journal")
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.header = canonical_digest([part, {name: [one.size, one.sha256] for name, one in files.items()}])
        self.arrived = self._read()

    def _read(self) -> dict[str, dict[int, int]]:
        """Return the CRC-32 of the parts that an earlier call has fetched."""
        found: dict[str, dict[int, int]] = {}
        try:
            lines = self.journal.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            lines = []
        if not lines or lines[0] != self.header:
            self.target.mkdir(parents=True, exist_ok=True)
            self.journal.write_text(self.header, encoding="utf-8")
            return found
        for line in lines[1:]:
            try:
                name, index, crc = json.loads(line)
            except ValueError:
                continue  # the process was killed while it wrote this line
            found.setdefault(name, {})[index] = crc
        return found

    def note(self, name: str, index: int, crc: int) -> None:
        """Write down that a part has arrived."""
        with self.lock, self.journal.open("a", encoding="utf-8") as stream:
            stream.write(f"\n{json.dumps([name, index, crc])}")

    def wrong(self, found: Mapping[str, str]) -> list[str]:
        """Return the files that are not what they have to be."""
        return [name for name, digest in found.items() if self.files[name].sha256 not in (None, digest)]

    def forget(self, names: list[str]) -> None:
        """Let no part of these files be taken up again."""
        for name in names:
            self.arrived.pop(name, None)
        kept = [[name, index, crc] for name, parts in self._read().items() for index, crc in parts.items()]
        lines = [json.dumps(one) for one in kept if one[0] not in names]
        self.journal.write_text("\n".join([self.header, *lines]), encoding="utf-8")

    def run(self, names: list[str]) -> dict[str, str]:
        """Fetch whole files; return their SHA-256."""
        incoming: list[_Incoming] = []
        pool = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="fetch")
        try:
            sizes = {name: self.files[name].size or 0 for name in names}
            whole = sum(sizes.values())
            with tqdm(
                total=whole, desc="download", unit="B", unit_scale=True, unit_divisor=1024,
                dynamic_ncols=True, disable=whole < _SHOWN,
            ) as bar:  # fmt: skip
                incoming += (_Incoming(self, name, sizes[name], bar) for name in names)
                jobs = [pool.submit(one.fetch, index) for one in incoming for index in range(one.parts)]
                done, _ = wait(jobs, return_when=FIRST_EXCEPTION)
                errors = [error for job in done if (error := job.exception()) is not None]
                if errors:
                    raise next((one for one in errors if not isinstance(one, StoppedError)), errors[0])
        except BaseException:
            self.stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            for one in incoming:
                one.close()
        return {one.name: one.digest() for one in incoming}


class _Incoming:
    """A file that arrives in parts."""

    def __init__(self, transfer: _Transfer, name: str, size: int, bar: "tqdm[Any]") -> None:
        self.transfer, self.name, self.size, self._bar = transfer, name, size, bar
        self.parts = -(-size // transfer.part)
        self._there: set[int] = set()
        self._hash, self._hashed = sha256(), 0
        self._turn = threading.Lock()
        path = transfer.target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(self._file, size)

    def close(self) -> None:
        os.close(self._file)

    def digest(self) -> str:
        return self._hash.hexdigest()

    def fetch(self, index: int) -> None:
        """Have a part on disk, and hash what has now arrived in one piece."""
        start = index * self.transfer.part
        end = min(start + self.transfer.part, self.size)
        kept = self.transfer.arrived.get(self.name, {}).get(index)
        if kept is None or self._crc(start, end) != kept:
            self.transfer.note(self.name, index, self._stream(start, end))
        self._bar.update(end - start)
        with self._turn:
            self._there.add(index)
        self._follow()

    def _stream(self, start: int, end: int) -> int:
        """Fetch a part; after a failure from where it came to. Returns its CRC-32."""
        state = [start, 0]
        address = f"{self.transfer.uri}/{self.name}"

        def work() -> None:
            if state[0] == end:
                return
            for chunk in self.transfer.remote.read(address, state[0], end):
                if self.transfer.stop.is_set():
                    raise StoppedError(address)
                os.pwrite(self._file, chunk, state[0])
                state[:] = state[0] + len(chunk), zlib.crc32(chunk, state[1])
            if state[0] != end:
                raise ConnectionError(f"the answer ended {end - state[0]} bytes early")

        persist(work, address, self.transfer.stop, progress=lambda: state[0])
        return state[1]

    def _crc(self, start: int, end: int) -> int:
        crc = 0
        for at in range(start, end, _CHUNK):
            crc = zlib.crc32(os.pread(self._file, min(_CHUNK, end - at), at), crc)
        return crc

    def _follow(self) -> None:
        """Hash every part whose turn has come; another thread that is at it sees this part too."""
        while self._turn.acquire(blocking=False):
            try:
                if self._hashed not in self._there:
                    return
                start = self._hashed * self.transfer.part
                end = min(start + self.transfer.part, self.size)
                for at in range(start, end, _CHUNK):
                    self._hash.update(os.pread(self._file, min(_CHUNK, end - at), at))
                self._hashed += 1
            finally:
                self._turn.release()
