"""The machine's cache: one fetch for many processes, a limit, and what is in use."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from regrow.errors import InputError, RegrowError
from regrow.transfer import NodeCache
from regrow.transfer import cache as module

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def nothing_held():
    yield
    for lock in module._HELD.values():
        os.close(lock)
    module._HELD.clear()


def fill(size: int, calls: list | None = None):
    def into(folder: Path) -> dict[str, str]:
        if calls is not None:
            calls.append(folder)
        (folder / "data").write_bytes(b"x" * size)
        return {"data": "digest"}

    return into


def let_go():
    nothing = dict(module._HELD)
    for lock in nothing.values():
        os.close(lock)
    module._HELD.clear()


def test_what_is_there_is_not_fetched_again_and_its_digests_are_not_claimed(tmp_path):
    cache, calls = NodeCache(tmp_path), []
    folder, known = cache.get("a" * 64, {"data": 10}, fill(10, calls))
    assert (folder / "data").read_bytes() == b"x" * 10
    assert known == {"data": "digest"}
    again, known = cache.get("a" * 64, {"data": 10}, fill(10, calls))
    assert again == folder and known == {} and len(calls) == 1


def test_a_file_of_another_size_or_without_its_marker_is_fetched_again(tmp_path):
    cache, calls = NodeCache(tmp_path), []
    folder, _ = cache.get("a" * 64, {"data": 10}, fill(10, calls))
    (folder / "data").write_bytes(b"short")
    folder, _ = cache.get("a" * 64, {"data": 10}, fill(10, calls))
    assert (folder / "data").stat().st_size == 10 and len(calls) == 2
    old = tmp_path / ("b" * 64)  # as an older regrow left them
    old.mkdir()
    (old / "data").write_bytes(b"?" * 10)
    cache.get("b" * 64, {"data": 10}, fill(10, calls))
    assert (old / "data").read_bytes() == b"x" * 10 and len(calls) == 3


def test_a_failed_fetch_leaves_no_folder_and_the_next_finds_its_parts(tmp_path):
    cache = NodeCache(tmp_path)

    def breaks(folder: Path) -> dict[str, str]:
        (folder / "part").write_text("kept")
        raise RegrowError("the store is gone")

    with pytest.raises(RegrowError, match="gone"):
        cache.get("a" * 64, {"data": 10}, breaks)
    assert not (tmp_path / ("a" * 64)).exists()

    def goes_on(folder: Path) -> dict[str, str]:
        assert (folder / "part").read_text() == "kept"
        return fill(10)(folder)

    cache.get("a" * 64, {"data": 10}, goes_on)


def test_the_least_recently_used_goes_and_what_is_in_use_stays(tmp_path):
    cache = NodeCache(tmp_path, limit=350)
    for key in "abc":
        cache.get(key * 64, {"data": 100}, fill(100))
        time.sleep(0.02)
    let_go()  # the processes that used them have ended
    cache.get("a" * 64, {"data": 100}, fill(100))  # the oldest, but in use from now on
    cache.get("d" * 64, {"data": 100}, fill(100))
    left = {path.name[0] for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert left == {"a", "c", "d"}
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr(module.log, "warning", lambda *words: said.append(words))
        cache.get("e" * 64, {"data": 350}, fill(350))
    left = {path.name[0] for path in tmp_path.iterdir() if not path.name.startswith(".")}
    assert left == {"a", "d", "e"}
    assert "what is in use is not removed" in said[0][0]


def test_another_process_keeps_what_it_uses(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from regrow.transfer import NodeCache\n"
        "from tests.transfer.test_cache import fill\n"
        "NodeCache(Path(sys.argv[1])).get('a' * 64, {'data': 100}, fill(100))\n"
        "print('there', flush=True); sys.stdin.read()"
    )
    user = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert user.stdout.readline() == "there\n"
        cache = NodeCache(tmp_path, limit=150)
        cache.get("b" * 64, {"data": 100}, fill(100))
        assert (tmp_path / ("a" * 64)).exists()
    finally:
        user.communicate("")
    let_go()
    cache.get("c" * 64, {"data": 100}, fill(100))
    assert not (tmp_path / ("a" * 64)).exists()
    assert not (tmp_path / ("b" * 64)).exists()


def test_what_is_dropped_can_be_fetched_while_another_process_has_it_open(tmp_path):
    first, second = NodeCache(tmp_path), NodeCache(tmp_path)
    folder, _ = first.get("a" * 64, {"data": 10}, fill(10))
    held = dict(module._HELD)
    module._HELD.clear()  # as if another process held it
    with (folder / "data").open("rb") as reading:
        second.drop("a" * 64)
        second.get("a" * 64, {"data": 10}, fill(10))
        assert reading.read() == b"x" * 10
    for lock in held.values():
        os.close(lock)


def test_no_room_is_said_before_anything_is_fetched(tmp_path):
    calls = []
    with pytest.raises(RegrowError, match=r"GiB are needed and .* GiB are free"):
        NodeCache(tmp_path).get("a" * 64, {"data": 2**60}, fill(1, calls))
    assert calls == []


def test_the_limit_is_read_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("REGROW_CACHE_MAX_BYTES", "1000")
    assert NodeCache(tmp_path).limit == 1000
    monkeypatch.setenv("REGROW_CACHE_MAX_BYTES", "1 TB")
    with pytest.raises(InputError, match="REGROW_CACHE_MAX_BYTES=1 TB"):
        NodeCache(tmp_path)


def test_what_a_dead_process_was_fetching_can_be_removed(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from regrow.transfer import NodeCache\n"
        "def die(folder):\n"
        "    (folder / 'data').write_bytes(b'x' * 50)\n"
        "    os.kill(os.getpid(), 9)\n"
        "NodeCache(Path(sys.argv[1])).get('a' * 64, {'data': 100}, die)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == -9
    marker = tmp_path / f".{'a' * 64}.json"
    assert json.loads(marker.read_text()) == {"data": 100}
    NodeCache(tmp_path, limit=150).get("b" * 64, {"data": 100}, fill(100))
    assert not marker.exists() and not list(tmp_path.glob(f".{'a' * 64}.partial*"))


@pytest.mark.parametrize("key", ["../../escaped", "/escaped", "a/b", ".."])
def test_a_key_that_leads_out_of_the_cache_is_refused(tmp_path, key):
    calls: list[Path] = []
    with pytest.raises(RegrowError, match="no digest of stored files"):
        NodeCache(tmp_path / "a" / "b").get(key, {"data": 3}, fill(3, calls))
    assert calls == [] and not (tmp_path / "escaped").exists()
