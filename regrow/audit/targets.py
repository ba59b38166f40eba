"""What the user asks about: a folder, a version of the registry, a place in a store, or a bare digest."""

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from regrow.audit.registry import (
    StageFacts,
    against_registry,
    if_registered,
    is_configured,
    version_with_digest,
)
from regrow.errors import InputError
from regrow.lineage import Other, Verifier

if TYPE_CHECKING:
    from regrow.registry.versions import Version

_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_STORES = ("s3", "gs", "gcs", "az", "abfs", "abfss", "hdfs")


@dataclass(frozen=True, slots=True)
class Target:
    """A folder to audit, and what else is known of it.

    Attributes:
        name: what the user asked for.
        folder: the folder, on this machine.
        others: checks against registries; none if no registry knows it.
    """

    name: str
    folder: Path
    others: tuple[Other, ...] = ()


@dataclass(frozen=True, slots=True)
class _Ask:
    """What the checks against registries need besides the version."""

    zenml: StageFacts | None
    verifier: Verifier | None


@contextmanager
def resolve(
    target: str, *, zenml: StageFacts | None = None, verifier: Verifier | None = None
) -> Iterator[Target]:
    """Find the folder that a TARGET of `regrow audit` means; what had to be fetched is removed afterwards.

    Args:
        target: a folder or a file: URI of one; models:/NAME/VERSION or models:/NAME@alias; s3:// and other stores that
            fsspec opens; or the digest of a registered checkpoint.
        zenml: what ZenML says of a version, for the comparison of the two registries.
        verifier: what the promotion record's signatures are checked with.

    Raises:
        InputError: there is no such thing, or it cannot be had.
    """
    with ExitStack() as stack:
        yield _resolve(target, _Ask(zenml, verifier), stack)


def _resolve(target: str, ask: _Ask, stack: ExitStack) -> Target:
    reference = target.removeprefix("mlflow:")
    if reference.startswith("models:/"):
        from regrow.registry.versions import find

        return _of_version(target, find(reference), ask, stack)
    if Path(target).exists():
        return Target(target, _folder(target, Path(target)), _known(ask))
    if digest := _DIGEST.fullmatch(target):
        return _of_version(target, version_with_digest(digest[1]), ask, stack)
    parts = urlsplit(target)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise InputError(f"{target}: names another machine ({parts.netloc}); write file:///path")
        return Target(target, _folder(target, Path(unquote(parts.path))), _known(ask))
    if parts.scheme in _STORES:
        return Target(target, _download(target, stack), _known(ask))
    if parts.scheme:
        raise InputError(
            f"{target}: unknown kind of target; use a folder, file:, models:/, {'://, '.join(_STORES)}:// or a digest"
        )
    raise InputError(f"{target}: no such folder")


def _folder(target: str, path: Path) -> Path:
    if not path.exists():
        raise InputError(f"{target}: no such folder")
    if not path.is_dir():
        raise InputError(f"{target}: is a file; audit takes the folder that it lies in")
    # A stored MLflow model has the checkpoint inside.
    inside = path / "checkpoint"
    return inside if (path / "MLmodel").is_file() and inside.is_dir() else path


def _of_version(target: str, version: "Version", ask: _Ask, stack: ExitStack) -> Target:
    import mlflow

    from regrow.registry.server import checkpoint_of

    folder = stack.enter_context(checkpoint_of(mlflow.MlflowClient(), version.name, str(version.number)))
    return Target(target, folder, against_registry(version, ask.zenml, ask.verifier))


def _known(ask: _Ask) -> tuple[Other, ...]:
    """Checks for a folder that was named by its place: whether a registry that is configured knows its digest."""
    return (if_registered(ask.zenml, ask.verifier),) if is_configured() else ()


def _download(uri: str, stack: ExitStack) -> Path:
    """Fetch a folder from a store; credentials are the environment's, as of every fsspec client."""
    import fsspec

    scratch = Path(stack.enter_context(TemporaryDirectory(prefix="regrow-audit-")))
    try:
        system, path = fsspec.core.url_to_fs(uri)
        if not system.isdir(path):
            raise InputError(f"{uri}: no such folder in the store")
        names = [name for name in system.find(path) if not name.endswith("/")]
        for name in names:
            inside = name.removeprefix(path.rstrip("/") + "/")
            (scratch / inside).parent.mkdir(parents=True, exist_ok=True)
        system.get(names, [str(scratch / name.removeprefix(path.rstrip("/") + "/")) for name in names])
    except ImportError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise InputError(f"{uri}: needs a client for this store ({error}); s3: install regrow[s3]") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{uri}: cannot be read ({error}); check credentials and the address") from None
    return _folder(uri, scratch)
