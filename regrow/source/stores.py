"""Object stores: files and folders that lie in a bucket, pinned by their content and kept in the cache under it."""

import logging
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from regrow.checkpoint import digest_of
from regrow.errors import InputError
from regrow.files import atomic_folder, cache_dir, full_disk_is_clear, safe_member, sha256_of
from regrow.source.grammar import Source

_log = logging.getLogger(__name__)


def fetch(source: Source, sha256: str) -> Path:
    """Return the local path of a file or folder in a store; it is downloaded once, and checked before it is kept.

    Credentials and address are those of the store's own client (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL_S3, a pod's
    role, ...).

    Args:
        source: a URI such as s3://bucket/data/train.jsonl.
        sha256: of the file, or the digest of the folder.

    Raises:
        InputError: there is no such file, the store cannot be reached, or the content is another.
        RegrowError: the disk is full.
    """
    name = PurePosixPath(source.name).name
    kept = cache_dir() / "stores" / sha256 / name
    if kept.exists():
        return kept
    system, path = _open(source)
    _log.info("fetching %s", source.text)
    with full_disk_is_clear(kept.parent), atomic_folder(kept.parent, replace=True) as scratch:
        found = _download(system, path, scratch / name, source)
        if found != sha256:
            raise InputError(
                f"{source.text}: its content has the SHA-256 {found}, not {sha256}; restore it, or write the new "
                "digest if you meant to change it"
            )
    return kept


def _open(source: Source) -> tuple[Any, str]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(source.text)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{source.text}: needs a client for this store ({error}); s3: install regrow[s3]"
        ) from None
    return system, path


def _download(system: Any, path: str, out: Path, source: Source) -> str:
    """Copy a file or a folder; return what names its content."""
    try:
        is_folder = system.isdir(path)
        if not is_folder and not system.exists(path):
            raise InputError(f"{source.text}: no such file or folder in the store")
        files = [one for one in system.find(path) if not one.endswith("/")] if is_folder else [path]
        for file in tqdm(files, desc=f"fetch {out.name}", unit="file", leave=False, disable=len(files) < 2):
            inside = file.removeprefix(path.rstrip("/") + "/") if is_folder else ""
            if is_folder and not safe_member(inside):
                raise InputError(f"{source.text}: holds a name that leads out of it ({inside})")
            target = out / inside if is_folder else out
            target.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(file, str(target))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{source.text}: cannot be read ({error}); check credentials and the address"
        ) from None
    return digest_of(out) if is_folder else sha256_of(out)
