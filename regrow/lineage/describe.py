"""Describing results and materials by their digests."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

from regrow import tensors
from regrow.checkpoint import Checkpoint, manifest
from regrow.errors import InputError, RegrowError
from regrow.files import canonical_digest
from regrow.lineage.places import local
from regrow.lineage.statement import Resource
from regrow.lineage.store import about

_CHUNK = 4 * 2**20


def describe_checkpoint(
    checkpoint: Checkpoint, *, written: tensors.ShardWriter | None = None
) -> list[Resource]:
    """Describe a model as a subject: its digest, its files, and the tensors in them.

    Args:
        checkpoint: the model.
        written: what wrote the weights, if this process did: it has hashed them on the way.

    Returns:
        The model, then a resource for each file. A safetensors file's annotation `tensors` has the SHA-256 of
        each tensor's bytes, by which an audit names the tensor that differs.

    Raises:
        RegrowError: the folder is no longer what was opened.
    """
    files = _describe_files(checkpoint.folder, written)
    found = manifest_digest(files)
    if found != checkpoint.digest:
        raise RegrowError(
            f"{checkpoint.folder}: opened as {checkpoint.digest[:12]} but is {found[:12]} now; "
            "something else writes into this folder"
        )
    return [Resource(name="checkpoint", digest={"sha256": checkpoint.digest}), *files]


def describe_folder(folder: Path, name: str, digest: str) -> list[Resource]:
    """Describe another folder as a subject, such as a data set.

    Args:
        folder: the folder; `provenance/` at its top is left out.
        name: kind of the result, such as dataset.
        digest: what names its content (a data set's: of its rows).

    Returns:
        The result, then a resource for each file. The annotation `manifest` is the digest over all files.
    """
    files = _describe_files(folder)
    head = Resource(name=name, digest={"sha256": digest}, annotations={"manifest": manifest_digest(files)})
    return [head, *files]


def describe_value(name: str, digest: str, **annotations: Any) -> Resource:
    """Describe a value that has a canonical digest: a plan, scores, a configuration."""
    return Resource(name=name, digest={"sha256": digest}, annotations=annotations)


def material(source: Checkpoint | Path, name: str, *, digest: str | None = None) -> Resource:
    """Describe a folder as a material, with the id of the statement that it carries about itself.

    A folder without a statement came from outside; it is named as a local source, by its name and not its place.

    Args:
        source: a model, or a folder of another kind.
        name: kind, such as checkpoint or dataset.
        digest: what names the content of a folder that is no model; the digest over its files if not given.
    """
    if isinstance(source, Checkpoint):
        folder, digest = source.folder, source.digest
    else:
        folder = source
        digest = digest or canonical_digest(manifest(folder))
    if (statement := about(folder, digest)) is not None:
        return Resource(name=name, digest={"sha256": digest}, annotations={"attestation": statement.id})
    return Resource(
        name=name,
        digest={"sha256": digest},
        uri=local(folder.absolute().name),
        annotations={"source": "local"},
    )


def manifest_digest(files: Iterable[Resource]) -> str:
    """Return the digest of a folder from its files, as `regrow.checkpoint.digest_of` makes it."""
    return canonical_digest(
        {one.name: {"sha256": one.sha256, "size": one.annotations.get("size")} for one in files}
    )


def tensor_digests(file: Path) -> dict[str, str]:
    """Return the SHA-256 of the bytes of each tensor in a safetensors file, by name."""
    found = tensors.read_header(file)
    with ThreadPoolExecutor() as pool:
        return dict(zip(found, pool.map(_tensor_digest, found.values()), strict=True))


def _describe_files(folder: Path, written: tensors.ShardWriter | None = None) -> list[Resource]:
    known = written.digests if written else {}
    inside = written.tensor_digests if written else {}
    return [
        Resource(
            name=name,
            digest={"sha256": entry["sha256"]},
            annotations={"size": entry["size"]}
            | ({"tensors": inside[name]} if name in inside else _tensors_of(folder / name)),
        )
        for name, entry in manifest(folder, known).items()
    ]


def _tensors_of(file: Path) -> dict[str, Any]:
    if file.suffix != ".safetensors":
        return {}
    try:
        return {"tensors": tensor_digests(file)}
    except InputError:
        return {}  # not weights; the file's own digest stands for it


def _tensor_digest(info: tensors.TensorInfo) -> str:
    digest = sha256()
    with info.file.open("rb", buffering=0) as stream:
        stream.seek(info.start)
        left = info.nbytes
        while left and (chunk := stream.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()
