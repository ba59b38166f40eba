"""What promotion asks of MLflow: a database or a server, which can refuse a second writer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from regrow.errors import InputError
from regrow.registry.server import clear_errors

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


def in_files(client: "MlflowClient") -> bool:
    """Whether MLflow keeps its registry in plain files, where of two writers the last one wins."""
    uri: str = client.tracking_uri
    return uri.startswith("file:") or "://" not in uri


@contextmanager
def on_database(client: "MlflowClient") -> Iterator[None]:
    """Turn MLflow's errors into one line that names the server.

    Raises:
        InputError: in place of an error of MLflow; or MLflow keeps its registry in plain files.
    """
    if in_files(client):
        raise InputError(
            f"MLflow at {client.tracking_uri}: promotion needs a database or a server, which can refuse a second "
            "writer; set MLFLOW_TRACKING_URI, for example to sqlite:///mlflow.db"
        )
    with clear_errors(client.tracking_uri):
        yield
