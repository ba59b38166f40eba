"""A later try of a step, in a process of its own, finds an earlier one still at work."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, time
from types import SimpleNamespace as Of

from regrow.errors import InterruptedRunError
from steps import cost, workspace

run, seconds = sys.argv[1], float(sys.argv[2])
step = Of(id="s", name="prune", pipeline_run_id=run, version=1, run_metadata={}, inputs={},
          config=Of(extra={}, parameters={"blocks": 2}))
context = Of(step_run=step, pipeline_run=Of(id=run))
workspace.get_step_context = cost.get_step_context = lambda: context
workspace.log_metadata = lambda found, **_: None

def say(what):
    print("> " + what, flush=True)  # ZenML logs to the same stream

say("started")
folder = workspace.work_dir()
kept = sorted(path.name for path in folder.glob("shard-*"))
say(f"works in {folder.name} with {kept}")
try:
    with workspace.measured():
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            time.sleep(0.05)
except InterruptedRunError:
    (folder / "shard-1").touch()  # saved before the folder is given away
    say("left")
else:
    say("ended")
"""


@pytest.fixture
def tries(tmp_path):
    program = tmp_path / "program.py"  # a file: ZenML finds its source root by it
    program.write_text(PROGRAM)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REGROW_")}
    environment = kept | {
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "REGROW_WORK": str(tmp_path / "work"),
    }
    children = []

    def start(run: str, seconds: float) -> SimpleNamespace:
        child = subprocess.Popen(
            [sys.executable, str(program), run, str(seconds)], cwd=tmp_path, env=environment, text=True,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        children.append(child)
        said = (line.removeprefix("> ").strip() for line in child.stdout if line.startswith("> "))
        assert next(said) == "started"
        return SimpleNamespace(child=child, line=lambda: next(said))

    yield start
    for child in children:
        child.send_signal(signal.SIGKILL)
        child.wait()


def test_the_earlier_try_saves_and_leaves_and_another_run_is_not_disturbed(tries):
    first = tries("mine", 600)
    folder = first.line().split()[2]
    other = tries("another", 0.5)
    assert other.line() == f"works in {folder}-2 with []"
    assert other.line() == "ended"
    assert first.child.poll() is None

    second = tries("mine", 1.0)
    assert first.line() == "left"
    assert second.line() == f"works in {folder} with ['shard-1']"
    assert second.line() == "ended"  # not asked to leave by the mark that it has left itself
