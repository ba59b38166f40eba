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
from regrow.files import safe_member
from regrow.lineage import AuditResult, Check, Findings, Other, Verifier
from regrow.registry.alterations import alterations
from regrow.registry.layout import CARD, MODEL_FILE, checkpoint_in

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
        model: the MLflow model that the folder lies in, if that is what was asked for.
    """

    name: str
    folder: Path
    others: tuple[Other, ...] = ()
    model: Path | None = None

    @property
    def around(self) -> Other | None:
        """A check of what makes an MLflow model of the folder; none if it is no part of one."""
        return None if self.model is None else around(self.model)


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
        return _of_folder(target, Path(target), ask)
    if digest := _DIGEST.fullmatch(target):
        return _of_version(target, version_with_digest(digest[1]), ask, stack)
    parts = urlsplit(target)
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise InputError(f"{target}: names another machine ({parts.netloc}); write file:///path")
        return _of_folder(target, Path(unquote(parts.path)), ask)
    if parts.scheme in _STORES:
        return _of_folder(target, _download(target, stack), ask)
    if parts.scheme:
        raise InputError(
            f"{target}: unknown kind of target; use a folder, file:, models:/, {'://, '.join(_STORES)}:// or a digest"
        )
    raise InputError(f"{target}: no such folder")


def _of_folder(target: str, path: Path, ask: _Ask) -> Target:
    if not path.exists():
        raise InputError(f"{target}: no such folder")
    if not path.is_dir():
        raise InputError(f"{target}: is a file; audit takes the folder that it lies in")
    if (path / MODEL_FILE).is_file():
        return Target(target, checkpoint_in(path), _known(ask), path)
    return Target(target, path, _known(ask))


def around(model: Path) -> Other:
    """Return a check of all that an MLflow model holds besides the audited checkpoint."""

    def check(result: AuditResult) -> Findings:
        failures = alterations(model, result.digest)
        return Findings(
            failures=failures,
            checks=[Check(what="MLflow model around it", outcome="failed" if failures else "passed")],
            not_checked=[f"{CARD} and the licence in {MODEL_FILE}: texts that follow from no digest"],
        )

    return check


def _of_version(target: str, version: "Version", ask: _Ask, stack: ExitStack) -> Target:
    import mlflow

    from regrow.registry.server import model_of

    model = stack.enter_context(model_of(mlflow.MlflowClient(), version.name, str(version.number)))
    others = against_registry(version, ask.zenml, ask.verifier)
    return Target(target, checkpoint_in(model), others, model)


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
        inside = [name.removeprefix(path.rstrip("/") + "/") for name in names]
        if wrong := [name for name in inside if not safe_member(name)]:
            raise InputError(f"{uri}: holds a name that leads out of it ({wrong[0]}); nothing was fetched")
        for name in inside:
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        system.get(names, [str(scratch / name) for name in inside])
    except ImportError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        raise InputError(f"{uri}: needs a client for this store ({error}); s3: install regrow[s3]") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{uri}: cannot be read ({error}); check credentials and the address") from None
    return scratch
