"""Files that appear whole or not at all.

A stage writes into a hidden sibling of its target and renames it when everything is on disk, so a
killed run never leaves a folder that a later run would trust.
"""

import errno
import fcntl
import glob
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

from regrow.errors import InputError, RegrowError


@contextmanager
def atomic_folder(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a scratch folder that becomes `out` when the block ends without an error.

    What killed processes have left of earlier attempts at `out` is removed first.

    Args:
        out: the folder that appears at the end.
        replace: whether an `out` that is already there is replaced (only at the very end).

    Raises:
        InputError: `out` exists and `replace` is false.
        RegrowError: the disk is full.
    """
    if out.exists() and not replace:
        raise InputError(f"{out}: already exists; name another --out folder or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    sweep(out)
    scratch, held = _scratch_folder(out)
    try:
        with full_disk_is_clear(out):
            yield scratch
        _swap(scratch, out)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    finally:
        os.close(held)


def _scratch_folder(out: Path) -> tuple[Path, int]:
    """Make a scratch folder, and return it with the descriptor whose lock says that its process lives."""
    while True:
        scratch = beside(out, "partial")
        scratch.mkdir()
        try:
            held = os.open(scratch, os.O_RDONLY)
        except FileNotFoundError:  # swept by another process, which saw no lock yet
            continue
        with suppress(OSError):  # file systems that lock no folders: there, leftovers stay
            fcntl.flock(held, fcntl.LOCK_EX)
        if scratch.exists():
            return scratch, held
        os.close(held)


def sweep(out: Path) -> None:
    """Remove scratch folders of `out` whose processes have died; those of living ones are locked and stay."""
    for left in out.parent.glob(f".{glob.escape(out.name.lstrip('.'))}.*-*"):
        if not re.fullmatch(r".*\.(?:partial|replaced)-[0-9a-f]{12}", left.name) or left.is_symlink():
            continue
        try:
            held = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # a scratch file, or gone
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(held)


def _swap(scratch: Path, out: Path) -> None:
    while True:
        try:
            scratch.rename(out)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        # Another process may put its own there between the two steps, or have taken away what we found.
        old = beside(out, "replaced")
        with suppress(FileNotFoundError):
            out.rename(old)
        shutil.rmtree(old, ignore_errors=True)


def beside(path: Path, what: str) -> Path:
    """Return a hidden sibling that nobody else has: pods that share a volume are all process 1."""
    return path.parent / f".{path.name.lstrip('.')}.{what}-{uuid4().hex[:12]}"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a scratch path that is renamed to `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = beside(path, "partial")
    try:
        with full_disk_is_clear(path):
            yield scratch
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


@contextmanager
def full_disk_is_clear(path: Path) -> Iterator[None]:
    """Turn the operating system's "no space" into one line that names the place and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(path.parent).free / 2**30
            raise RegrowError(
                f"{path}: the disk is full ({free:.1f} GiB free); free space there or choose another folder. "
                "Nothing half-written was kept."
            ) from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    with atomic_file(path) as scratch:
        scratch.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def canonical_digest(value: Any) -> str:
    """Return the SHA-256 of a JSON value in its canonical form (sorted keys, no spaces, UTF-8)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sha256(text.encode()).hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Give `target` the bytes of `source`: a hard link on the same file system, else a copy.

    Every file that regrow makes is replaced, never changed in place, so links cannot alias an edit.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)  # of the file itself where `source` is a symbolic link
    except OSError:
        shutil.copyfile(source, target)


def safe_member(name: str) -> bool:
    """Tell whether a path in an archive or a store stays inside the folder it is written to."""
    parts = PurePosixPath(name).parts
    return (
        bool(parts)
        and not name.startswith("/")
        and ".." not in parts
        and "\\" not in name
        and "\0" not in name
    )


def cache_dir() -> Path:
    """Return the folder for downloads that can be made again (`REGROW_CACHE`, else the XDG cache)."""
    if named := os.environ.get("REGROW_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "regrow"
