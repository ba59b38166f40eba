import pytest

from tests.promotion.world import World


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """An empty MLflow database: making one takes seconds, copying it does not."""
    import mlflow

    folder = tmp_path_factory.mktemp("template")
    mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db").search_registered_models()
    return folder / "mlflow.db"


@pytest.fixture
def world(tmp_path, template, monkeypatch):
    """A registered model in a database of this test alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME", raising=False)
    for name in ("REGROW_VERIFY_KEY", "REGROW_VERIFY_ROOTS", "REGROW_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)
    return World(tmp_path, template)
