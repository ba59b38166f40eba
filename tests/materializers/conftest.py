from datetime import UTC, datetime
from uuid import uuid4

import pytest


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The local artifact store of this test's own ZenML."""
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(tmp_path / "zenml"))
    from zenml.artifact_stores import LocalArtifactStore, LocalArtifactStoreConfig
    from zenml.enums import StackComponentType

    root = tmp_path / "store"
    root.mkdir()

    return LocalArtifactStore(
        name="here",
        id=uuid4(),
        config=LocalArtifactStoreConfig(path=str(root)),
        flavor="local",
        type=StackComponentType.ARTIFACT_STORE,
        user=None,
        created=datetime.now(tz=UTC),
        updated=datetime.now(tz=UTC),
    )
