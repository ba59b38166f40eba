from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.audit.registered import World, make
from tests.lineage.made import merged_model


@pytest.fixture(scope="package")
def made(tmp_path_factory) -> Path:
    return merged_model(tmp_path_factory.mktemp("made")).folder


@pytest.fixture(scope="package")
def database(tmp_path_factory) -> Path:
    """An empty MLflow database: making one takes seconds, copying it does not."""
    import mlflow

    folder = tmp_path_factory.mktemp("template")
    mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db").search_registered_models()
    return folder / "mlflow.db"


@pytest.fixture
def tracking(tmp_path, monkeypatch) -> Iterator[Path]:
    """MLflow on a database in a folder of this test alone, which is the working folder."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    yield tmp_path
    mlflow.set_tracking_uri(before)


@pytest.fixture
def world(tracking, made, database) -> World:
    return make(tracking, made, database)
