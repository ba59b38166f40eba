"""SIGTERM to a process that is in a step's block."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import signal, sys, time
from zenml.exceptions import RunInterruptedException, RunStoppedException
from regrow.errors import InterruptedRunError
import importlib.util
spec = importlib.util.spec_from_file_location("preemption", "steps/preemption.py")  # without all other steps
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
preemptible = module.preemptible
kind = {"evicted": RunInterruptedException, "by hand": RunStoppedException}[sys.argv[1]]
def zenmls(number, frame):  # what ZenML's own handler does when it is asked
    raise kind("said ZenML")
signal.signal(signal.SIGTERM, zenmls)
try:
    with preemptible():
        print("at work", flush=True)
        while True:
            try:
                time.sleep(0.1)
            except Exception:
                print("swallowed")
except (InterruptedRunError, RunStoppedException) as error:
    print(type(error).__name__, error)
print(signal.getsignal(signal.SIGTERM) is zenmls)
"""


@pytest.mark.parametrize(
    "asked, said",
    [("evicted", "InterruptedRunError the step was stopped (SIGTERM)"), ("by hand", "RunStoppedException said")],
)  # fmt: skip
def test_the_block_is_left_and_zenml_is_asked_why(asked, said):
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, asked], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "at work\n"
    child.send_signal(signal.SIGTERM)
    out, _ = child.communicate(timeout=120)
    assert child.returncode == 0
    assert out.startswith(said)
    assert out.splitlines()[-1] == "True"
