import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How busy the machine is decides about no property.
settings.register_profile("regrow", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("regrow")

if "PYTEST_XDIST_WORKER" in os.environ:
    # One process a core: threads of their own would only get in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# torch reads these when it is imported, so they stand before anything else.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


@pytest.fixture
def tiny(tmp_path: Path):
    """A tiny random Llama on disk."""
    from tests.tiny import tiny_checkpoint

    return tiny_checkpoint(tmp_path / "tiny")
