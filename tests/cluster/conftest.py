import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.running import Running, missing, traces


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what needs a cluster of its own first: there can be one on a machine, and `cluster` stays up to the end."""
    items.sort(key=lambda item: "bare" not in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A cluster with servers beside it, up: `environment` for client programs, `core` and `api` for Kubernetes.

    REGROW_TEST_CLUSTER names the folder of a cluster that is used instead, and stays up: for work on one test. There
    can be one cluster on a machine.
    """
    if given := os.environ.get("REGROW_TEST_CLUSTER"):
        running = Running(Path(given))
        running.command("up")
        yield running
        return
    if lack := missing():
        pytest.skip(lack)
    # Not pytest's own folder, which other users, as whom databases run, may not enter.
    folder = Path(tempfile.mkdtemp(prefix="regrow-cluster-", dir="/var/tmp"))
    running = Running(folder)
    try:
        running.command("up")
        yield running
    finally:
        said = running.command("down", check=False)
        assert "would not stop" not in said, said
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def bare(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A cluster without servers that a module may kill parts of; what was there before must be there after.

    With REGROW_TEST_CLUSTER it is that one, and what it leaves behind is not looked at.
    """
    if given := os.environ.get("REGROW_TEST_CLUSTER"):
        running = Running(Path(given))
        running.command("up", "--no-servers")
        yield running
        return
    if lack := missing():
        pytest.skip(lack)
    folder = Path(tempfile.mkdtemp(prefix="regrow-cluster-", dir="/var/tmp"))
    before = traces(folder)
    running = Running(folder)
    try:
        running.command("up", "--no-servers")
        yield running
    finally:
        running.command("down", check=False)
        left = traces(folder)
        shutil.rmtree(folder, ignore_errors=True)
    assert left == before
