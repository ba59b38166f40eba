from pathlib import Path

import pytest

from regrow.checkpoint import Checkpoint, digest_of
from regrow.registry import RegistrySpec, register
from tests.tiny import tiny_checkpoint

SPEC = RegistrySpec(name="tiny-regrown")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A real MLflow database and artifact folder of this test alone."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


def test_a_registered_version_loads_by_alias_generates_and_keeps_its_digest(server, tiny, tmp_path):
    import mlflow

    done = register(tiny, SPEC, tags={"regrow.base": "abc"}, metrics={"recovery": 0.9})
    pipeline = mlflow.transformers.load_model(done.uri)
    assert isinstance(pipeline("Grass", max_new_tokens=4)[0]["generated_text"], str)
    version = server.get_model_version_by_alias("tiny-regrown", "challenger")
    assert version.version == int(done.version) or str(version.version) == done.version
    assert version.tags["regrow.digest"] == tiny.digest
    assert version.tags["regrow.base"] == "abc"
    assert server.get_run(done.run_id).data.metrics["recovery"] == 0.9
    fetched = Path(mlflow.artifacts.download_artifacts(done.uri, dst_path=str(tmp_path / "back")))
    assert digest_of(fetched / "model") == tiny.digest
    assert Checkpoint.open(fetched / "model").parameters == tiny.parameters


def test_the_same_checkpoint_is_not_stored_twice_and_another_moves_the_alias(server, tiny, tmp_path):
    first = register(tiny, SPEC, tags={}, metrics={})
    again = register(tiny, SPEC, tags={}, metrics={})
    assert again.version == first.version
    other = register(tiny_checkpoint(tmp_path / "other", seed=1), SPEC, tags={}, metrics={})
    assert other.version != first.version
    assert str(server.get_model_version_by_alias("tiny-regrown", "challenger").version) == other.version


def test_a_crash_before_the_end_leaves_the_alias_where_it_was(server, tiny, tmp_path, monkeypatch):
    first = register(tiny, SPEC, tags={}, metrics={})

    def crash(*_args, **_kwargs):
        raise RuntimeError("killed")

    monkeypatch.setattr("mlflow.MlflowClient.set_registered_model_alias", crash)
    with pytest.raises(RuntimeError):
        register(tiny_checkpoint(tmp_path / "other", seed=1), SPEC, tags={}, metrics={})
    assert str(server.get_model_version_by_alias("tiny-regrown", "challenger").version) == first.version
