"""Files and folders that appear whole, also where several processes write the same one."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from regrow.errors import InputError
from regrow.files import atomic_folder, beside, read_json, sweep, write_json


def test_pods_that_share_a_volume_have_scratch_names_of_their_own(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)
    assert len({beside(tmp_path / "out", "partial") for _ in range(100)}) == 100


def test_of_many_writers_one_wins_and_nothing_is_left_beside(tmp_path: Path):
    out, file = tmp_path / "out", tmp_path / "file.json"

    def write(number: int) -> None:
        with atomic_folder(out, replace=True) as scratch:
            for name in ("a", "b", "c"):
                (scratch / name).write_text(str(number))
        write_json(file, [number] * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(200)))
    assert len({(out / name).read_text() for name in ("a", "b", "c")}) == 1
    assert len(set(read_json(file))) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.json", "out"]


def test_a_folder_that_is_there_is_refused_and_a_failed_one_leaves_nothing(tmp_path: Path):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="half"), atomic_folder(out) as scratch:
        (scratch / "a").write_text("half")
        raise ValueError("half")
    assert not list(tmp_path.iterdir())
    out.mkdir()
    with pytest.raises(InputError, match="already exists"), atomic_folder(out):
        raise AssertionError


_WRITER = """
import sys, time
from pathlib import Path
from regrow.files import atomic_folder
with atomic_folder(Path(sys.argv[1]), replace=True) as scratch:
    (scratch / "half").write_text("x")
    print(scratch, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path: Path):
    out, other = tmp_path / "[out]", tmp_path / "other"
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(one)], stdout=subprocess.PIPE, text=True)
        for one in (out, out, other)
    ]
    try:
        killed, living, elsewhere = (Path(one.stdout.readline().strip()) for one in writers)
        for one in (writers[0], writers[2]):
            one.send_signal(signal.SIGKILL)
            one.wait()
        stored = tmp_path / ".[out].partial-1"  # not a name that regrow gives
        stored.mkdir()
        sweep(out)
        assert not killed.exists()
        assert (living / "half").exists() and stored.exists()
        assert elsewhere.exists()  # left of another folder
        with atomic_folder(other) as scratch:
            assert scratch.exists() and not elsewhere.exists()
    finally:
        for one in writers:
            one.kill()
            one.wait()
