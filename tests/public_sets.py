"""Public data sets that tests read where they lie: nothing of them is in the repository."""

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).parents[2] / "shared" / "datasets"


def public_set(name: str) -> Path:
    """Return a file or folder of the public sets, or skip the test that asks for it.

    The folder is `shared/datasets` beside the repository, or the one that REGROW_DATASETS names.
    """
    folder = Path(os.environ.get("REGROW_DATASETS") or BESIDE)
    if not (folder / name).exists():
        pytest.skip(f"{name} is not in {folder}; name the folder with the public sets in REGROW_DATASETS")
    return folder / name
