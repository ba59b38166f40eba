"""The work of a run on pods is removed by its last step, but not what another run is at work on."""

import fcntl
import os
from pathlib import Path

from steps import workspace


def folder(root: Path, name: str) -> Path:
    made = root / name / "abc"
    made.mkdir(parents=True)
    (made / "shard").write_text("rows")
    (made / ".lock").write_text("run")
    return made


def test_the_last_step_removes_what_nobody_works_on(tmp_path, monkeypatch):
    root = tmp_path / "work" / "compress-1"
    done, busy = folder(root, "generate_self_data_science"), folder(root, "fine_tune_science")
    held = os.open(busy / ".lock", os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    monkeypatch.setenv("REGROW_WORK", str(root))
    workspace.clear_work()
    assert not done.parent.exists()
    assert (busy / "shard").read_text() == "rows"
    os.close(held)
    workspace.clear_work()
    assert not root.exists()
    assert root.parent.exists()


def test_on_one_machine_it_removes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REGROW_WORK", raising=False)
    made = folder(tmp_path / "runs" / "work", "prune")
    workspace.clear_work()
    assert made.exists()
