"""Weights to and from a real S3 store: resumed, verified, fetched once, and over an outage.

The store is one of its own, because it is stopped and its objects are damaged.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from infra.servers import programs, s3
from materializers.checkpoint import CheckpointMaterializer
from materializers.folders import remote_of
from regrow.checkpoint import Checkpoint
from regrow.errors import InputError, RegrowError
from regrow.transfer import fetch, send
from tests.servers.proxy import Proxy
from tests.servers.running import ROOT, Servers
from tests.transfer.files import MIB, contents, folder_of, wanted_of

pytestmark = pytest.mark.servers
PART = 4 * MIB
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(scope="module")
def s3_store():
    try:
        programs.find_weed()
    except InputError as error:
        pytest.skip(str(error))
    folder = Path(tempfile.mkdtemp(prefix="regrow-transfer-", dir="/var/tmp"))
    servers = Servers(folder)
    try:
        servers.command("up", "s3")
        yield servers
    finally:
        servers.command("down", check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def up(s3_store):
    """The store, started again if an earlier test has stopped it."""
    s3_store.command("up", "s3")
    return s3_store


@pytest.fixture
def proxy(up):
    proxy = Proxy(up.home.port("s3"))
    yield proxy
    proxy.close()


def zenml_store(servers: Servers, port: int):
    """ZenML's own S3 artifact store, as a stack has it, reached through a port."""
    from zenml.enums import StackComponentType
    from zenml.integrations.s3.artifact_stores import S3ArtifactStore
    from zenml.integrations.s3.flavors import S3ArtifactStoreConfig

    key, secret = s3.keys(servers.home, "client")
    config = S3ArtifactStoreConfig(
        path="s3://zenml/artifacts", key=key, secret=secret,
        client_kwargs={"endpoint_url": f"http://127.0.0.1:{port}", "region_name": s3.REGION},
    )  # fmt: skip
    return S3ArtifactStore(
        name="s3", id=uuid4(), config=config, flavor="s3", type=StackComponentType.ARTIFACT_STORE, user=None,
        created=datetime.now(tz=UTC), updated=datetime.now(tz=UTC),
    )  # fmt: skip


def remote(servers: Servers, port: int | None = None):
    return remote_of(zenml_store(servers, port or servers.home.port("s3")), "s3://zenml/x")


def wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


FETCH = """
import json, sys
from pathlib import Path
import s3fs
from regrow.transfer import NodeCache, Remote, fetch
from tests.transfer.files import MIB, wanted_of
folder, uri, endpoint = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
store = s3fs.S3FileSystem(endpoint_url=endpoint)
wanted = wanted_of(folder)
sizes = {name: one.size for name, one in wanted.items()}
def fill(target):
    print("fetching", flush=True)
    return fetch(Remote(lambda: store), uri, wanted, target, part=4 * MIB)
print(NodeCache().get("f" * 64, sizes, fill)[0], flush=True)
"""


def fetching(servers: Servers, folder: Path, uri: str, port: int, cache: Path) -> subprocess.Popen[str]:
    """Fetch through the machine's cache, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, str(folder), uri, f"http://127.0.0.1:{port}"],
        cwd=ROOT,
        env=servers.client_environment(cache)
        | dict(zip(KEYS, s3.keys(servers.home, "client"), strict=True))
        | {"REGROW_CACHE": str(cache), "AWS_DEFAULT_REGION": s3.REGION},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_folder_goes_there_and_back_in_parts(up, tmp_path):
    # One file is larger than a part of an upload.
    folder = folder_of(tmp_path / "model", shard=150 * MIB, config=1000, empty=0, deep__file=5 * MIB)
    uri = "s3://zenml/there-and-back"
    send(remote(up), folder, uri)
    head = s3.client(up.home).head_object(Bucket="zenml", Key="there-and-back/shard")
    assert head["ETag"].strip('"').endswith("-3")  # S3's mark of an object that came in three parts
    wanted = wanted_of(folder)
    found = fetch(remote(up), uri, wanted, tmp_path / "copy", part=PART)
    assert found == {name: one.sha256 for name, one in wanted.items()}
    assert contents(tmp_path / "copy") == contents(folder)


def test_a_killed_fetch_goes_on_without_fetching_what_it_has(up, proxy, tmp_path):
    folder, uri = folder_of(tmp_path / "model", shard=160 * MIB, config=100), "s3://zenml/killed"
    send(remote(up), folder, uri)
    journal = tmp_path / "cache/artifacts" / f".{'f' * 64}.partial.journal"
    first = fetching(up, folder, uri, proxy.port, tmp_path / "cache")
    wait_until(lambda: journal.exists() and journal.read_text().count("\n") >= 12)
    first.kill()
    first.communicate()
    kept = journal.read_text().count("\n")
    assert kept < 41, "it was killed too late to show anything"
    before = proxy.received
    second = fetching(up, folder, uri, proxy.port, tmp_path / "cache")
    said, _ = second.communicate()
    assert second.returncode == 0
    assert contents(Path(said.splitlines()[-1])) == contents(folder)
    again = proxy.received - before
    rest = 160 * MIB + 100 - kept * PART
    assert (
        rest - PART <= again <= rest + PART + MIB
    )  # the config may be one of the parts; MiB: HTTP's own words


def test_two_processes_fetch_once(up, proxy, tmp_path):
    folder, uri = folder_of(tmp_path / "model", shard=100 * MIB), "s3://zenml/once"
    send(remote(up), folder, uri)
    both = [fetching(up, folder, uri, proxy.port, tmp_path / "cache") for _ in range(2)]
    said = [one.communicate()[0].splitlines() for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert sum(lines.count("fetching") for lines in said) == 1
    assert said[0][-1] == said[1][-1]
    assert contents(Path(said[0][-1])) == contents(folder)
    assert proxy.received < 102 * MIB


def test_connections_that_are_cut_are_made_again(up, proxy, tmp_path):
    folder, uri = folder_of(tmp_path / "model", shard=100 * MIB), "s3://zenml/cut"
    send(remote(up), folder, uri)
    done = threading.Event()

    def cut() -> None:
        for _ in range(3):
            start = proxy.received
            wait_until(lambda start=start: proxy.received > start + 15 * MIB or done.is_set())
            proxy.cut()
            time.sleep(0.5)
            proxy.mend()

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        fetch(remote(up, proxy.port), uri, wanted_of(folder), tmp_path / "copy", part=PART)
    finally:
        done.set()
        cutter.join()
    assert contents(tmp_path / "copy") == contents(folder)


@pytest.mark.parametrize("way", ["fetch", "send"])
def test_a_store_that_is_away_for_30_seconds_is_waited_for(up, proxy, tmp_path, way, monkeypatch):
    monkeypatch.setenv("REGROW_TRANSFER_PATIENCE", "1800")  # on a busy machine it takes its time to come back
    folder, uri = folder_of(tmp_path / "model", shard=200 * MIB, config=100), f"s3://zenml/away-{way}"
    if way == "fetch":
        send(remote(up), folder, uri)
    errors = []

    def go() -> None:
        try:
            if way == "fetch":
                fetch(remote(up, proxy.port), uri, wanted_of(folder), tmp_path / "copy", part=PART)
            else:
                send(remote(up, proxy.port), folder, uri)
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=go)
    worker.start()
    wait_until(lambda: max(proxy.received, proxy.sent) > 30 * MIB)
    proxy.cut()  # before the store itself, which takes its time to stop
    assert worker.is_alive(), "the connections were cut too late to show anything"
    up.command("down", "s3")
    time.sleep(30)
    assert worker.is_alive() and not errors
    up.command("up", "s3")
    proxy.mend()
    worker.join(1800)
    assert not worker.is_alive() and not errors, errors
    if way == "send":
        fetch(remote(up), uri, wanted_of(folder), tmp_path / "copy", part=PART)
    assert contents(tmp_path / "copy") == contents(folder)


def test_keys_that_are_refused_are_an_error_at_once(up, tmp_path):
    store = zenml_store(up, up.home.port("s3"))
    wrong = store.config.model_copy(update={"secret": "wrong"})
    store._config = wrong
    folder = folder_of(tmp_path / "model", config=100)
    started = time.monotonic()
    with pytest.raises(RegrowError, match=r"access denied .*; check the keys of the artifact store"):
        send(remote_of(store, "s3://zenml/x"), folder, "s3://zenml/refused")
    with pytest.raises(RegrowError, match=r"access denied"):
        fetch(remote_of(store, "s3://zenml/x"), "s3://zenml/refused", wanted_of(folder), tmp_path / "copy")
    assert time.monotonic() - started < 120  # less than patience


@pytest.fixture
def stored(up, proxy, tiny, tmp_path, monkeypatch):
    """A tiny checkpoint in the bucket, and its materializer."""
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(tmp_path / "zenml"))
    monkeypatch.setenv("REGROW_CACHE", str(tmp_path / "cache"))
    uri = f"s3://zenml/artifacts/{uuid4()}"
    materializer = CheckpointMaterializer(uri=uri, artifact_store=zenml_store(up, proxy.port))
    materializer.save(tiny)
    return materializer


def test_a_checkpoint_is_fetched_once_and_hashed_once(up, proxy, stored, tiny, monkeypatch):
    hashed = []
    monkeypatch.setattr("regrow.checkpoint.sha256_of", lambda file: hashed.append(file) or "0" * 64)
    assert stored.load(Checkpoint).digest == tiny.digest
    assert hashed == []  # what had just arrived was hashed on the way
    monkeypatch.undo()
    os.environ["REGROW_CACHE"] = str(tiny.folder.parent / "cache")
    before = proxy.received
    assert stored.load(Checkpoint).digest == tiny.digest
    assert proxy.received - before < 100_000  # the manifest


def test_a_damaged_object_is_named_and_nothing_of_it_is_kept(up, stored, tiny):
    client, key = s3.client(up.home), stored.uri.removeprefix("s3://zenml/") + "/checkpoint/model.safetensors"
    data = bytearray(client.get_object(Bucket="zenml", Key=key)["Body"].read())
    data[len(data) // 2] ^= 1
    client.put_object(Bucket="zenml", Key=key, Body=bytes(data))
    with pytest.raises(RegrowError, match=r"/checkpoint/model\.safetensors: the object is damaged"):
        stored.load(Checkpoint)
    data[len(data) // 2] ^= 1
    client.put_object(Bucket="zenml", Key=key, Body=bytes(data))
    assert stored.load(Checkpoint).digest == tiny.digest


def test_what_is_damaged_on_the_machine_is_fetched_again(stored, tiny):
    folder = stored.load(Checkpoint).folder
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert stored.load(Checkpoint).digest == tiny.digest
