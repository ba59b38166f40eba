import shutil
from pathlib import Path

import pytest

from regrow.checkpoint import Checkpoint
from tests.tiny import tiny_checkpoint


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """An MLflow database without runs or models: making its tables takes seconds."""
    import mlflow

    file = tmp_path_factory.mktemp("database") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{file}").search_registered_models()
    return file


@pytest.fixture
def server(tmp_path, monkeypatch, empty_database):
    """A real MLflow database and artifact folder of this test alone."""
    import mlflow

    shutil.copyfile(empty_database, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="session")
def two_models(tmp_path_factory) -> list[Checkpoint]:
    """Two tiny models that no test changes."""
    folder = tmp_path_factory.mktemp("models")
    return [tiny_checkpoint(folder / str(seed), seed=seed) for seed in (0, 1)]
