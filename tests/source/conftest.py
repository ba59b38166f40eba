import pytest

from tests.tiny import tiny_checkpoint


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REGROW_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def gguf_pair(tmp_path_factory):
    from tests.tiny_gguf import write_gguf

    folder = tmp_path_factory.mktemp("gguf")
    checkpoint = tiny_checkpoint(folder / "origin", vocab_size=262)
    return checkpoint, write_gguf(checkpoint, folder / "tiny.gguf")
