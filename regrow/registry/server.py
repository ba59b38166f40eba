"""Speaking to MLflow: errors as one line, patience with a busy database, texts of a run, and a version's files."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlparse

from regrow.errors import InputError
from regrow.registry.layout import MODEL_FILE
from regrow.registry.names import first_line

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

SECONDS_BETWEEN_TRIES = (0.1, 0.4, 1.6)
T = TypeVar("T")
_given: ContextVar["MlflowClient | None"] = ContextVar("client", default=None)


def current() -> "MlflowClient":
    """Return the client that was given (`speaking_through`), or one of the MLflow that is set."""
    import mlflow

    return _given.get() or mlflow.MlflowClient()


@contextmanager
def speaking_through(client: "MlflowClient") -> Iterator[None]:
    """Read the registry through this client, which may speak to another MLflow than the one that is set."""
    token = _given.set(client)
    try:
        yield
    finally:
        _given.reset(token)


def again(call: Callable[[], T]) -> T:
    """Call MLflow for something that may be repeated; a busy database or server is given time."""
    from mlflow.exceptions import MlflowException

    for seconds in SECONDS_BETWEEN_TRIES:
        try:
            return call()
        except MlflowException as error:
            if error.error_code != "TEMPORARILY_UNAVAILABLE":
                raise
            time.sleep(seconds)
    return call()


@contextmanager
def clear_errors(uri: str | None = None) -> Iterator[None]:
    """Turn MLflow's errors into one line that names the server.

    Args:
        uri: of the server; the one that is set if not given.

    Raises:
        InputError: in place of an error of MLflow.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise InputError(
            f"MLflow at {uri or mlflow.get_tracking_uri()}: {first_line(error)}; check the tracking URI and rights"
        ) from error


def aliases_of(client: "MlflowClient", name: str) -> dict[str, str]:
    """Return version by alias of a registered model.

    Raises:
        InputError: there is no such model.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = again(lambda: client.get_registered_model(name))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise InputError(f"{name}: no such registered model in MLflow") from None
    return {alias: str(version) for alias, version in found.aliases.items()}


@contextmanager
def no_bars() -> Iterator[None]:
    """Fetch small files without MLflow's progress bar for each of them."""
    name = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def read_text(client: "MlflowClient", run_id: str | None, path: str) -> str | None:
    """Return a text among a run's artifacts; None if it is not there."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    with tempfile.TemporaryDirectory(prefix="regrow-") as scratch, no_bars():
        try:
            return Path(client.download_artifacts(run_id, path, scratch)).read_text(encoding="utf-8")
        except (MlflowException, OSError):
            return None


def read_texts(client: "MlflowClient", run_id: str, folder: str) -> dict[str, str]:
    """Return the texts in a folder among a run's artifacts by file name; nothing where there is no such folder."""
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory(prefix="regrow-") as scratch, no_bars():
        try:
            found = Path(client.download_artifacts(run_id, folder, scratch))
        except (MlflowException, OSError):
            return {}
        return {
            file.name: file.read_text(encoding="utf-8", errors="replace")
            for file in found.glob("*")
            if file.is_file()
        }


def folders_of(client: "MlflowClient", run_id: str) -> list[str]:
    """Return the folders at the top of a run's artifacts; nothing where they cannot be listed."""
    from mlflow.exceptions import MlflowException

    try:
        return [one.path for one in client.list_artifacts(run_id) if one.is_dir]
    except (MlflowException, OSError):
        return []


@contextmanager
def model_of(client: "MlflowClient", name: str, version: str) -> Iterator[Path]:
    """Yield the folder with a version's MLflow model, fetched if it is not on this machine.

    The checkpoint in it is `regrow.registry.layout.checkpoint_in`.

    Raises:
        InputError: the files cannot be had, or are no MLflow model.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    source = again(lambda: client.get_model_version_download_uri(name, version))
    is_local = source.startswith(("file:", "/")) or "://" not in source
    with tempfile.TemporaryDirectory(prefix="regrow-") as scratch:
        try:
            # A local path is given back as it is: nothing is copied.
            folder = Path(
                mlflow.artifacts.download_artifacts(
                    artifact_uri=source,
                    dst_path=None if is_local else scratch,
                    tracking_uri=client.tracking_uri,
                )
            )
            (folder / MODEL_FILE).read_bytes()
        except (MlflowException, OSError) as error:
            raise InputError(
                f"{name} version {version}: its files at {source} cannot be read ({first_line(error)})"
            ) from error
        yield folder


def local_path(uri: str) -> Path | None:
    """Return the path that a URI without a scheme, or with `file:`, names; None for any other."""
    parsed = urlparse(uri)
    if parsed.scheme == "":
        return Path(uri).absolute()
    return Path(unquote(parsed.path)) if parsed.scheme == "file" else None
