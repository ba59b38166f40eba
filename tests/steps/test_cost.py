"""What a step and a run have cost: figures of pods, without a cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# One process for all: importing the steps makes a ZenML database, and imports take seconds.
PROGRAM = """
import json, sys, time
from datetime import datetime, timedelta
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace as Of

from regrow.files import write_json
from regrow.tune.record import TuningRecord
from steps import cost, workspace

work, noted = Path("work"), {}
work.mkdir()
step = Of(
    id="s", name="prune", pipeline_run_id="mine", version=1, run_metadata={},
    config=Of(extra={"regrow": {"stage": "prune", "gpus": 1, "cpus": 0.5}}),
)
context = Of(step_run=step, pipeline_run=Of(id="mine"))
workspace.get_step_context = cost.get_step_context = lambda: context
workspace.work_dir = lambda: work
workspace.log_metadata = lambda found, **_: noted.setdefault("found", []).append(found)

def measure():
    with workspace.measured():
        time.sleep(0.1)
    return noted["found"].pop()

time.sleep(0.5)  # the imports above, at least, and this
noted["one process"] = measure()
main = sys.modules["__main__"]
main.__spec__ = ModuleSpec("zenml.entrypoints.entrypoint", None)
noted["own process"] = measure()
left = {"seen": time.time(), "started": time.time() - 100, "peak": 1, "limit": None}
for run in ("mine", "other"):
    write_json(work / "attempt.json", left | {"run": run})
    noted[run] = measure()

began = datetime(2026, 1, 1)
def listed(name, status, *, command=None, metadata=None, pods=1, seconds=3600):
    told = {"stage": "fine_tune" if command else "collect_tuning", "gpus": 4 * pods, "cpus": 8.0 * pods, "pods": pods}
    return Of(
        name=name, status=Of(value=status), run_metadata=metadata or {}, start_time=began,
        end_time=began + timedelta(seconds=seconds), config=Of(extra={"regrow": told}, command=command),
    )

def account(*steps):
    pages = [Of(items=[one], total_pages=len(steps)) for one in steps]
    cost.Client = lambda: Of(list_run_steps=lambda page, **_: pages[page - 1])
    record = TuningRecord(dataset="a", digest="d", log=[], summary={"wall_seconds": 1000.5})
    return cost.account(cost.of_pods([record]))["fine_tune"]

train = {"command": ["sh"], "pods": 2}
noted["trained"] = account(listed("fine_tune_a", "completed", **train), listed("collect_fine_tune_a", "completed"))
noted["tried again"] = account(
    listed("fine_tune_a", "retried", seconds=60, **train), listed("fine_tune_a", "completed", **train),
)
noted["result was there"] = account(listed("fine_tune_a", "completed", seconds=5, **train))
noted["nothing to do"] = account(
    listed("fine_tune_a", "completed", **train), listed("collect_fine_tune_a", "cached"),
)
del noted["found"]
print("NOTED " + json.dumps(noted))
"""


@pytest.fixture(scope="module")
def noted(tmp_path_factory) -> dict:
    home = tmp_path_factory.mktemp("cost")
    program = home / "program.py"  # a file: ZenML finds its source root by it
    program.write_text(PROGRAM)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REGROW_")}
    done = subprocess.run(
        [sys.executable, str(program)], cwd=home, env=kept | {"PYTHONPATH": str(ROOT), "HOME": str(home)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    return json.loads(next(line for line in lines if line.startswith("NOTED ")).removeprefix("NOTED "))


def test_a_step_in_a_pod_is_paid_for_from_the_begin_of_its_process(noted):
    assert 0.1 <= noted["one process"]["seconds"] < 0.5
    assert noted["own process"]["seconds"] >= 0.7
    assert (noted["own process"]["gpus"], noted["own process"]["cpus"]) == (1, 0.5)


def test_what_another_run_lost_is_not_this_ones_to_pay(noted):
    assert noted["mine"]["lost_seconds"] == pytest.approx(100, abs=1)
    assert noted["mine"]["tries"] == 2
    assert "lost_seconds" not in noted["other"]
    assert noted["other"]["tries"] == 1


def test_pods_that_share_a_training_are_paid_for_by_its_own_clock(noted):
    trained = noted["trained"]
    assert trained["seconds"] == 2 * 1000.5  # of the hour until ZenML saw the end, the rest was waiting
    assert (trained["gpu_seconds"], trained["cpu_seconds"]) == (4 * 2001, 8 * 2001)
    # A try that was killed has no clock: ZenML's time counts.
    assert noted["tried again"]["seconds"] == 2 * (60 + 1000.5)
    assert noted["result was there"]["seconds"] == 2 * 5
    assert noted["nothing to do"]["gpu_seconds"] == 0
