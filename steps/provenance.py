"""Statements about values in the artifact store, where the step that needs them finds them by digest."""

from pathlib import Path

import mlflow
from zenml.client import Client
from zenml.io import fileio

from regrow.checkpoint import PROVENANCE
from regrow.lineage import Statement
from steps.workspace import fresh, work_dir


def scratch() -> Path:
    """Return an empty folder of this step for a value's statement."""
    folder = fresh(work_dir() / "stated")
    folder.mkdir()
    return folder


def keep(statement: Statement, folder: Path) -> None:
    """Put a value's statement, and its signature, into the artifact store and into the step's MLflow run."""
    place = _place(statement.subject.sha256 or "")
    fileio.makedirs(place)
    for file in sorted((folder / PROVENANCE).iterdir()):
        fileio.copy(str(file), f"{place}/{file.name}", overwrite=True)
    if mlflow.active_run():
        mlflow.log_artifacts(str(folder / PROVENANCE), PROVENANCE)


def fetch(digests: list[str], folder: Path) -> Path:
    """Collect the statements about values into a folder's `provenance/`; those that have none are left out."""
    target = folder / PROVENANCE
    target.mkdir(parents=True, exist_ok=True)
    for place in map(_place, digests):
        if fileio.exists(place):
            for name in sorted(map(str, fileio.listdir(place))):
                fileio.copy(f"{place}/{name}", str(target / name), overwrite=True)
    return folder


def log_chain(*folders: Path) -> None:
    """Put every statement that these folders carry into the active MLflow run."""
    if not mlflow.active_run():
        return
    for folder in folders:
        if (folder / PROVENANCE).is_dir():
            mlflow.log_artifacts(str(folder / PROVENANCE), PROVENANCE)


def _place(digest: str) -> str:
    return f"{Client().active_stack.artifact_store.path}/statements/{digest}"
