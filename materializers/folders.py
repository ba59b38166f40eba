"""Folders in the artifact store: as they are, uncompressed, and verified by digest when they come back."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from regrow.files import link_or_copy, sha256_of
from regrow.transfer import NodeCache, Remote, Wanted, fetch, send, sized


@dataclass(frozen=True)
class Fetched:
    """A folder that came back.

    Attributes:
        folder: where its files are.
        known: SHA-256 of the files that were hashed while they arrived just now; of others nothing was read.
    """

    folder: Path
    known: dict[str, str] = field(default_factory=dict)


def put_folder(folder: Path, uri: str, store: Any) -> None:
    """Store every file of `folder` below `uri`: linked in a local store, uploaded in parallel elsewhere.

    Args:
        folder: what to store.
        uri: where.
        store: ZenML's artifact store that `uri` lies in.

    Raises:
        RegrowError: the store refuses the files or did not answer for too long.
    """
    if not is_local(uri):
        send(remote_of(store, uri), folder, uri)
        return
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = Path(uri) / file.relative_to(folder)
        if file.suffix == ".safetensors":
            link_or_copy(file, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def get_folder(uri: str, files: Mapping[str, Wanted], key: str, store: Any) -> Fetched:
    """Return a local folder with the files stored below `uri`.

    In a local store that is the stored folder itself. From a remote store the files are fetched once into the
    machine's cache, under `key`, and found there by the next step on the same machine.

    Args:
        uri: what `put_folder` was given.
        files: names relative to `uri`, and what each has to be.
        key: digest of the content.
        store: ZenML's artifact store that `uri` lies in.

    Raises:
        RegrowError: an object is missing or damaged, or the store did not answer for too long.
    """
    if is_local(uri):
        return Fetched(Path(uri))
    remote = remote_of(store, uri)
    unknown = {name: one for name, one in files.items() if one.size is None}
    files = {**files, **sized(remote, uri, unknown)}
    sizes = {name: one.size or 0 for name, one in files.items()}
    return Fetched(*NodeCache().get(key, sizes, partial(fetch, remote, uri, files)))


def forget_folder(key: str) -> None:
    """Let what lies in the machine's cache under `key` be fetched again."""
    NodeCache().drop(key)


def wanted(manifest: Mapping[str, Mapping[str, Any]]) -> dict[str, Wanted]:
    """Return what a manifest with `size` and `sha256` of each file asks for."""
    return {name: Wanted(entry["size"], entry["sha256"]) for name, entry in manifest.items()}


def manifest_of(folder: Path, inside: Path | None = None) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file of a folder, or of a folder in it, by the path relative to the folder."""
    files = sorted(path for path in (inside or folder).rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"sha256": sha256_of(path), "size": path.stat().st_size}
        for path in files
    }


def remote_of(store: Any, uri: str) -> Remote:
    """Return the way to a store: ZenML's own file system, which has the right endpoint and fresh keys."""

    def filesystem() -> Any:
        if (own := getattr(store, "filesystem", None)) is not None:
            return own
        from fsspec.core import url_to_fs

        return url_to_fs(uri)[0]

    return Remote(filesystem)


def is_local(uri: str) -> bool:
    """Whether a store's address is a folder of this machine."""
    return "://" not in uri
