"""Bad days of a long generation: nothing is lost, nothing doubled, and each is said in words."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from regrow.errors import RegrowError
from regrow.records import Record
from regrow.selfdata import REWRITTEN, SelfDataSpec, distill, store
from regrow.selfdata.engines import EndpointSpec
from tests.openai_server import serving, stall
from tests.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[2]
SPEC = SelfDataSpec(max_new_tokens=8, shard_size=2)


def records(n=8):
    return [
        Record(instruction=f"Say {i}.", reference=f"It is {i}.", answer=None, source="s") for i in range(n)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("faults") / "m")


CHILD = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have the tests ignore it
import json, sys
from pathlib import Path
from regrow.checkpoint import Checkpoint
from regrow.selfdata import SelfDataSpec, distill
from tests.selfdata.test_faults import records
model, spec, out, work = sys.argv[1:]
distill(Checkpoint.open(model), records(150), "open", SelfDataSpec(**json.loads(spec)), Path(out), Path(work))
"""


def started(model, spec, out, work) -> subprocess.Popen:
    """A process of its own that rewrites 150 records."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, model.folder, spec.model_dump_json(), out, work],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def wait_until(child, condition) -> None:
    """Wait for a condition, as long as the child runs and two minutes at most."""
    deadline = time.monotonic() + 120
    while not condition() and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("engine", ["transformers", "endpoint"])
def test_a_killed_run_goes_on_and_ends_the_same(model, tmp_path, engine):
    """Twice by SIGKILL, with one shard at a time and with several."""
    with serving(model, delay=0.02) as server:
        settings = {"max_new_tokens": 12, "shard_size": 3, "engine": engine, "attempts": 2}
        if engine == "endpoint":
            settings["endpoint"] = {"url": server.url, "model": "tiny", "in_flight": 7}
        spec = SelfDataSpec(**settings)
        whole = distill(model, records(150), "open", spec, tmp_path / "whole")
        asked = len(server.requests)
        work, stamps = tmp_path / "work", {}
        for wanted in (2, 9):
            child = started(model, spec, tmp_path / "out", work)
            wait_until(child, lambda n=wanted: len(list(work.glob("shard-*"))) >= n)
            child.kill()
            assert child.wait() == -signal.SIGKILL
            assert not (tmp_path / "out").exists()
            stamps |= {path: path.stat().st_mtime_ns for path in work.glob("shard-*")}
        data = distill(model, records(150), "open", spec, tmp_path / "out", work)
        again = len(server.requests) - asked
    assert data.digest == whole.digest
    assert data.summary["shards_reused"] >= len(stamps) >= 9
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items()), "none is made again"
    assert not list(tmp_path.glob(".out.partial*"))
    if engine == "endpoint":
        assert asked <= again < 2 * asked, "only what was in flight is asked for again"


def test_a_full_disk_stops_the_run_and_keeps_what_is_finished(model, tmp_path, monkeypatch):
    whole = distill(model, records(), "open", SPEC, tmp_path / "whole")
    write, written = store.write_shard, []

    def full(file, header, rows):
        if len(written) == 2:
            raise_full = OSError(errno.ENOSPC, "No space left on device")
            with monkeypatch.context() as patch:
                patch.setattr(Path, "write_text", lambda *_, **__: (_ for _ in ()).throw(raise_full))
                write(file, header, rows)
        write(file, header, rows)
        written.append(file)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_shard", full)
        with pytest.raises(RegrowError, match=r"shard-00002.*the disk is full"):
            distill(model, records(), "open", SPEC, tmp_path / "out", tmp_path / "work")
    assert not (tmp_path / "out").exists()
    assert sorted(path.name[:11] for path in (tmp_path / "work").iterdir()) == ["shard-00000", "shard-00001"]
    again = distill(model, records(), "open", SPEC, tmp_path / "out", tmp_path / "work")
    assert again.summary["shards_reused"] == 2
    assert again.digest == whole.digest


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB, where the machine lets us make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "regrow-test", folder], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_really_is_full(model, small_disk, tmp_path):
    long = [
        Record(instruction=f"Say {i}.", reference=f"{i} " * 20_000, answer=None, source="s") for i in range(8)
    ]
    with pytest.raises(RegrowError, match="the disk is full"):
        distill(model, long, "open", SPEC, small_disk / "out", small_disk / "work")
    kept = sorted((small_disk / "work").iterdir())
    assert [path.name[:11] for path in kept] == ["shard-00000"], "nothing half-written stays"
    # Room is made by moving the work elsewhere.
    shutil.copytree(small_disk / "work", tmp_path / "work")
    data = distill(model, long, "open", SPEC, tmp_path / "out", tmp_path / "work")
    assert data.summary["shards_reused"] == 1
    assert [row["id"] for row in data.rows()] == [record.id for record in long]


def test_an_answer_that_never_ends_is_cut_and_not_taken(tmp_path):
    endless = tiny_checkpoint(tmp_path / "m")
    for name in ("generation_config.json", "config.json"):
        config = json.loads((endless.folder / name).read_text())
        config["eos_token_id"] = 4000  # no such token
        (endless.folder / name).write_text(json.dumps(config))
    rows = distill(endless, records(), "open", SPEC, tmp_path / "out").rows()
    assert {row["decision"] for row in rows} == {"kept: unfinished"}
    assert [row["response"] for row in rows] == [record.reference for record in records()]


def test_a_server_that_never_answers_is_given_up(model, tmp_path):
    with serving(model) as server:
        server.faults.extend([None, None, *[stall(8)] * 4])
        endpoint = EndpointSpec(url=server.url, model="tiny", retries=1, timeout=3, in_flight=2)
        spec = SPEC.model_copy(update={"engine": "endpoint", "endpoint": endpoint})
        with pytest.raises(RegrowError, match=r"no answer after 2 tries .*timed out"):
            distill(model, records(), "open", spec, tmp_path / "out", tmp_path / "work")
        done = len(list((tmp_path / "work").glob("shard-*")))
        server.faults.clear()
        data = distill(model, records(), "open", spec, tmp_path / "out", tmp_path / "work")
    assert data.summary["shards_reused"] == done
    assert [row["id"] for row in data.rows()] == [record.id for record in records()]


def test_ctrl_c_does_not_wait_for_the_shards_that_are_being_made(model, tmp_path):
    with serving(model, delay=0.3) as server:
        settings = {"max_new_tokens": 4, "shard_size": 20, "engine": "endpoint"}
        settings["endpoint"] = {"url": server.url, "model": "tiny", "in_flight": 2}
        spec, work = SelfDataSpec(**settings), tmp_path / "work"
        child = started(model, spec, tmp_path / "out", work)
        wait_until(child, lambda: len(server.requests) >= 4)
        child.send_signal(signal.SIGINT)
        child.wait(120)
        assert len(server.requests) < 30, "the two shards that were being made have forty"


def test_a_chat_template_without_a_system_role(tmp_path):
    """What the system turn would have said stands at the head of the user's, and all else goes its way."""
    plain = tiny_checkpoint(tmp_path / "m")
    template = plain.folder / "chat_template.jinja"
    template.write_text(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        + template.read_text()
    )
    (tmp_path / "t.txt").write_text("[system]\nBe brief.\n[user]\n{{instruction}} {{reference}}")
    spec = SPEC.model_copy(update={"template": str(tmp_path / "t.txt")})
    rows = distill(plain, records(), "open", spec, tmp_path / "out").rows()
    longer = distill(
        plain,
        records(),
        "open",
        SPEC.model_copy(update={"template": str(_without_system(tmp_path))}),
        tmp_path / "b",
    ).rows()
    for one, other in zip(rows, longer, strict=True):
        assert one["prompt_tokens"] == other["prompt_tokens"] + len("Be brief.\n\n")
        assert one["decision"] in (REWRITTEN, "kept: unfinished", "kept: empty")


def _without_system(folder: Path) -> Path:
    file = folder / "user-only.txt"
    file.write_text("[user]\n{{instruction}} {{reference}}")
    return file
