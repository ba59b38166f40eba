"""A try that was killed without a word, told of by the next: real processes."""

import json
import subprocess
import sys
import time
from pathlib import Path

from regrow.attempts import Attempt
from regrow.files import write_json

ROOT = Path(__file__).parents[2]
WORK = "import sys, time; from pathlib import Path; from regrow.attempts import Attempt\nAttempt(Path(sys.argv[1]))\n"


def run(work: Path, end: str) -> int:
    return subprocess.run([sys.executable, "-c", WORK + end, str(work)], cwd=ROOT, check=False).returncode


def test_a_killed_try_is_told_of_once(tmp_path, caplog):
    assert run(tmp_path, "import os; os.kill(os.getpid(), 9)") == -9
    write_json(tmp_path / "job/a/estimate.json", {"parts": {"weights": 2**31}, "seconds": 1})
    attempt = Attempt(tmp_path)
    assert "an earlier try of this step was killed after about 0 s without a word" in caplog.text
    assert "estimated need 2.0 GiB" in caplog.text
    attempt.end()
    caplog.clear()
    assert Attempt(tmp_path).lost == 0.0
    assert caplog.text == ""


def test_its_seconds_and_a_full_memory_are_known(tmp_path, caplog):
    began = time.time() - 100
    last = {"run": "mine", "started": began, "seen": began + 90, "peak": 95, "limit": 100, "kills": 0}
    write_json(tmp_path / "attempt.json", last)
    assert Attempt(tmp_path, "mine").lost == 90
    assert "most likely for want of memory; memory of this container: limit 0 MiB, peak 0 MiB" in caplog.text


def test_what_a_try_of_another_run_lost_is_told_and_not_counted(tmp_path, caplog):
    began = time.time() - 100
    last = {"run": "failed", "started": began, "seen": began + 90, "peak": 1, "limit": 100, "kills": 0}
    write_json(tmp_path / "attempt.json", last)
    attempt = Attempt(tmp_path, "mine", already=7.0)
    assert attempt.lost == 0
    assert "an earlier try of this step was killed after about 90 s" in caplog.text
    noted = json.loads((tmp_path / "attempt.json").read_text())
    assert noted["run"] == "mine"
    assert 7 <= noted["seen"] - noted["started"] < 8


def test_a_note_cut_short_is_no_obstacle(tmp_path, caplog):
    (tmp_path / "attempt.json").write_text('{"started": 1')
    attempt = Attempt(tmp_path)
    assert attempt.lost == 0.0 and caplog.text == ""
    assert json.loads((tmp_path / "attempt.json").read_text())["peak"] > 0
