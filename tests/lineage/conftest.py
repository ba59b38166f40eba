import os

import pytest

from tests.lineage.keys import make_key
from tests.lineage.models import build_chain, small_files

SIGNING = ("KEY", "PASSWORD", "CERTIFICATE", "CHAIN")


@pytest.fixture(autouse=True)
def _no_keys_from_outside(monkeypatch):
    for name in (*(f"REGROW_SIGNING_{one}" for one in SIGNING), "REGROW_VERIFY_KEY", "REGROW_VERIFY_ROOTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A model's files but the weights; to be copied."""
    return small_files(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    """A private and a public key."""
    return make_key(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="session")
def unsigned(tmp_path_factory, small):
    """A chain without signatures; never to be changed."""
    return build_chain(tmp_path_factory.mktemp("unsigned"), small)


@pytest.fixture(scope="session")
def signed(tmp_path_factory, small, keys):
    """A chain signed with the key; never to be changed."""
    os.environ["REGROW_SIGNING_KEY"] = str(keys[0])
    try:
        return build_chain(tmp_path_factory.mktemp("signed"), small)
    finally:
        del os.environ["REGROW_SIGNING_KEY"]
