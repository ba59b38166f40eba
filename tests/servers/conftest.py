import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.pipeline_client import client, result
from tests.servers.running import Servers, missing


@pytest.fixture(scope="session")
def all_servers() -> Iterator[Servers]:
    """Every server, started once; stopped at the end, and nothing of them may be left.

    REGROW_TEST_SERVERS names a folder whose servers are used instead, and stay up: for work on one test.
    """
    if lack := missing():
        pytest.skip(lack)
    if given := os.environ.get("REGROW_TEST_SERVERS"):
        servers = Servers(Path(given))
        servers.command("up")
        yield servers
        return
    # Not pytest's own folder, which other users, as whom databases run, may not enter.
    folder = Path(tempfile.mkdtemp(prefix="regrow-servers-", dir="/var/tmp"))
    servers = Servers(folder)
    try:
        servers.command("up")
        yield servers
    finally:
        said = servers.command("down", check=False)
        assert "would not stop" not in said, said
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def servers(all_servers: Servers) -> Servers:
    """The servers, all up: one that an earlier test has stopped is started again."""
    if "died" in (said := all_servers.command("status", check=False)) or "stopped" in said:
        all_servers.command("up")
    return all_servers


@pytest.fixture(scope="session")
def run(all_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The pipeline of two steps, run once through the ZenML server."""
    all_servers.command("up")
    return result(client(all_servers, tmp_path_factory.mktemp("client") / "one", "run"))
