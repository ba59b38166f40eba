import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture
def tiny(tmp_path: Path):
    """A tiny random Llama on disk."""
    from tests.tiny import tiny_checkpoint

    return tiny_checkpoint(tmp_path / "tiny")
