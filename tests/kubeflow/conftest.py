import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kubeflow.docker import Docker, missing
from tests.kubeflow.world import IMAGE, World
from tests.servers.conftest import all_servers  # noqa: F401 - the fixture
from tests.servers.running import ROOT, Servers


@pytest.fixture(scope="session")
def world(all_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> World:  # noqa: F811
    """A checkout, a tiny model and data in the S3 store, and the stack `kubeflow` on a ZenML server."""
    found = World(tmp_path_factory.mktemp("kubeflow"), all_servers)
    found.make()
    return found


@pytest.fixture(scope="session")
def compiled(world: World) -> Path:
    """The tiny configuration, compiled by the command."""
    return world.compile()


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """A daemon; at the end nothing of it may be left.

    REGROW_TEST_DOCKER names the folder of one that is used instead, and stays: for work on one test.
    """
    if lack := missing():
        pytest.skip(lack)
    if given := os.environ.get("REGROW_TEST_DOCKER"):
        yield Docker(Path(given))
        return
    daemon = Docker(Path(tempfile.mkdtemp(prefix="regrow-docker-", dir="/var/tmp")))
    try:
        daemon.start()
        yield daemon
    finally:
        assert daemon.stop() == []


@pytest.fixture(scope="session")
def image(docker: Docker) -> str:
    """The image that the stack names, in that daemon: regrow-base of this checkout, or what REGROW_TEST_IMAGE says."""
    name = os.environ.get("REGROW_TEST_IMAGE")
    if not name:
        base = os.environ.get(
            "REGROW_IMAGE_BASE", "rootfs"
        )  # made of Debian's packages: no registry is asked
        done = subprocess.run(
            [sys.executable, "-m", "infra.docker", "build", "base", "--base", base, "--no-sbom"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        found = re.search(r"^base (\S+)$", done.stdout, re.MULTILINE)
        assert found, done.stdout
        name = found[1]
    docker.load(name)
    docker.ask("tag", name, IMAGE)  # nothing is pulled
    return IMAGE


@pytest.fixture(scope="session")
def ran(world: World, compiled: Path, docker: Docker, image: str) -> Iterator[dict]:
    """The same compiled pipeline in containers, and what ZenML says of the run."""
    # Not pytest's own folder, which the image's user may not enter.
    with tempfile.TemporaryDirectory(prefix="regrow-kubeflow-", dir="/var/tmp") as cache:
        yield json.loads(world.run(compiled, docker, Path(cache)))
