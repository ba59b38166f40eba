"""Folders in the artifact store: as they are, uncompressed, and verified by digest when they come back."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from zenml.io import fileio

from regrow.files import atomic_folder, cache_dir, link_or_copy


def put_folder(folder: Path, uri: str) -> None:
    """Store every file of `folder` below `uri`: linked in a local store, uploaded in parallel elsewhere."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    if _is_local(uri):
        for file, name in zip(files, names, strict=True):
            target = Path(uri) / name
            if file.suffix == ".safetensors":
                link_or_copy(file, target)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        return
    for parent in sorted({os.path.dirname(f"{uri}/{name}") for name in names}):  # noqa: PTH120 - a URI, not a path
        fileio.makedirs(parent)
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(
            pool.map(
                lambda pair: fileio.copy(str(pair[0]), f"{uri}/{pair[1]}"), zip(files, names, strict=True)
            )
        )


def get_folder(uri: str, names: list[str], key: str) -> Path:
    """Return a local folder with the files stored below `uri`.

    In a local store that is the stored folder itself. From a remote store the files are downloaded once
    into the cache, under `key`, and found there by the next step on the same machine.

    Args:
        uri: what `put_folder` was given.
        names: the files, relative to `uri`.
        key: digest of the content.
    """
    if _is_local(uri):
        return Path(uri)
    target = cache_dir() / "artifacts" / key
    if not target.exists():
        with atomic_folder(target, replace=True) as scratch:
            for name in names:
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            with ThreadPoolExecutor(max_workers=8) as pool:
                list(pool.map(lambda name: fileio.copy(f"{uri}/{name}", str(scratch / name)), names))
    return target


def _is_local(uri: str) -> bool:
    return "://" not in uri
