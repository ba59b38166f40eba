"""A folder beside the statement about it: file by file, and tensor by tensor where a file differs."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from regrow.checkpoint import PROVENANCE
from regrow.errors import InputError
from regrow.lineage.describe import tensor_digests
from regrow.lineage.result import Failure
from regrow.lineage.statement import Resource, Statement

Manifest = Mapping[str, Mapping[str, Any]]


def compare(folder: Path, statement: Statement, found: Manifest) -> list[Failure]:
    """Name every file and tensor of a folder that is not as stated.

    Args:
        folder: the folder.
        statement: the statement about it.
        found: the folder's manifest, as it is now.
    """
    stated = statement.files
    by_digest = {one.sha256: name for name, one in stated.items()}
    failures: list[Failure] = []
    for name in sorted(stated.keys() | found.keys()):
        if name not in found:
            failures.append(
                Failure(what="file removed", where=name, expected=_sha(stated[name]), found="no such file")
            )
        elif name not in stated:
            sha = str(found[name]["sha256"])
            same = f", the content of {by_digest[sha]}" if sha in by_digest else ""
            failures.append(
                Failure(what="file added", where=name, expected="no such file", found=f"{sha}{same}")
            )
        elif found[name]["sha256"] != stated[name].sha256:
            failures += _changed(folder / name, name, stated[name], str(found[name]["sha256"]), by_digest)
        elif found[name]["size"] != stated[name].annotations.get("size"):
            size = stated[name].annotations.get("size")
            failures.append(
                Failure(
                    what="size", where=name, expected=f"{size} bytes", found=f"{found[name]['size']} bytes"
                )
            )
    return failures


def linked_folders(folder: Path) -> list[Failure]:
    """Name symbolic links to folders: what is in them is not part of the digest."""
    return [
        Failure(
            what="file added",
            where=path.relative_to(folder).as_posix(),
            expected="files and folders",
            found="a symbolic link to a folder, whose content no digest covers",
        )
        for path in _links(folder)
    ]


def _links(folder: Path) -> Iterator[Path]:
    for place, folders, _ in os.walk(folder):
        for name in sorted(folders):
            path = Path(place) / name
            if path.is_symlink() and path != folder / PROVENANCE:
                yield path


def _changed(
    file: Path, name: str, stated: Resource, found: str, by_digest: Mapping[str | None, str]
) -> list[Failure]:
    if found in by_digest:
        return [
            Failure(
                what="file swapped",
                where=name,
                expected=_sha(stated),
                found=f"{found}, the content of {by_digest[found]}",
            )
        ]
    tensors = stated.annotations.get("tensors")
    if not isinstance(tensors, dict):
        return [Failure(what="file changed", where=name, expected=_sha(stated), found=found)]
    try:
        now = tensor_digests(file)
    except (InputError, KeyError, TypeError) as error:
        return [Failure(what="file damaged", where=name, expected=_sha(stated), found=f"{found} ({error})")]
    differ = list(_tensors(name, tensors, now))
    if not differ:
        where = f"{name}: header"
        differ.append(
            Failure(
                what="file changed",
                where=where,
                expected=_sha(stated),
                found=f"{found}; every tensor's bytes are as stated, the header differs",
            )
        )
    return differ


def _tensors(name: str, stated: Mapping[str, Any], now: Mapping[str, str]) -> Iterator[Failure]:
    for tensor in sorted(stated.keys() | now.keys()):
        expected, found = str(stated.get(tensor, "no such tensor")), now.get(tensor, "no such tensor")
        if expected != found:
            what = "changed" if tensor in stated and tensor in now else "added"
            what = "removed" if tensor not in now else what
            yield Failure(what=f"tensor {what}", where=f"{name}: {tensor}", expected=expected, found=found)


def _sha(resource: Resource) -> str:
    return resource.sha256 or "no SHA-256"
