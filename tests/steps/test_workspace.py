"""The work of a run on pods is removed by its last step, but not what another run is at work on."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def folder(root: Path, name: str) -> Path:
    made = root / name / "abc"
    made.mkdir(parents=True)
    (made / "shard").write_text("rows")
    (made / ".lock").write_text("run")
    return made


def clear(home: Path, **variables: str) -> None:
    """Call it in a process of its own: importing the steps makes a ZenML database."""
    kept = {name: value for name, value in os.environ.items() if name != "REGROW_WORK"}
    program = home / "program.py"  # a file: ZenML finds its source root by it
    program.write_text("from steps.workspace import clear_work\n\nclear_work('run')\n")
    subprocess.run(
        [sys.executable, str(program)],
        cwd=home, env=kept | {"PYTHONPATH": str(ROOT), "HOME": str(home)} | variables, check=True,
        capture_output=True,
    )  # fmt: skip


def test_the_last_step_removes_what_nobody_works_on(tmp_path):
    root = tmp_path / "work" / "compress-1"
    done, busy = folder(root, "generate_self_data_science"), folder(root, "fine_tune_science")
    held = os.open(busy / ".lock", os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    clear(tmp_path, REGROW_WORK=str(root))
    assert not done.parent.exists()
    assert (busy / "shard").read_text() == "rows"
    os.close(held)
    clear(tmp_path, REGROW_WORK=str(root))
    assert not root.exists()
    assert root.parent.exists()


def test_what_another_run_has_left_stays_for_a_week(tmp_path):
    root = tmp_path / "work" / "compress-1"
    mine, other, old = (folder(root, name) for name in ("prune", "fine_tune_arc", "fine_tune_science"))
    for one in (other, old):
        (one / ".lock").write_text("another")
    week = time.time() - 8 * 24 * 3600
    os.utime(old / ".lock", (week, week))
    clear(tmp_path, REGROW_WORK=str(root))
    assert not mine.exists() and not old.exists()
    assert (other / "shard").read_text() == "rows"


def test_on_one_machine_it_removes_nothing(tmp_path):
    made = folder(tmp_path / "runs" / "work", "prune")
    clear(tmp_path)
    assert made.exists()
