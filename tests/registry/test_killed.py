"""A call of `register` killed at each of its writes, one after the other: SIGKILL, a real process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("scenario", "copies"),
    [
        ("the first model of all", 0),
        ("a stored model", 0),
        ("a model that is stored nowhere", 0),
        ("a model that is there", 0),
        ("a model that has the alias", 0),
    ],
)
def test_a_killed_call_leaves_the_old_state_or_the_new_and_the_next_completes_it(tmp_path, scenario, copies):
    done = subprocess.run(
        [sys.executable, "-m", "tests.registry.killed", str(tmp_path), scenario],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
    clean, *kills = [json.loads(line) for line in done.stdout.splitlines()]
    old, new = clean["before"]["state"], clean["after"]["state"]
    assert old != new
    assert len(kills) >= 8, [kill["at"] for kill in kills]
    seen = set()
    for kill in kills:
        left, again = kill["left"], kill["again"]
        assert left["state"] in (old, new), kill
        seen.add(left["state"] == new)
        if left["half"] or (left["begun"] and left["state"] == old):
            assert again["completed"], kill
        finished = [number for number, *_ in left["state"]]
        if left["state"] == new and left["stated"] != finished:
            assert again["completed"], kill
        assert again["state"] == new, kill
        assert again["stated"] == [number for number, *_ in new], kill
        unfinished = {key: again[key] for key in ("half", "begun", "running", "scratch")}
        assert unfinished == {"half": 0, "begun": 0, "running": 0, "scratch": []}, kill
        assert again["weights"] == clean["after"]["weights"] == clean["before"]["weights"] + copies, kill
    assert seen == {True, False}  # it was killed on both sides of the point that counts
