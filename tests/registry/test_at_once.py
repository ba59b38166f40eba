"""Two calls that register the same model at once: neither takes away what the other is at work on."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from regrow.checkpoint import digest_of
from regrow.registry import RegistrySpec, begun, register, versions, writing
from regrow.registry.begun import BEGUN_TAG
from tests.registry.stored import weights_below

SPEC = RegistrySpec(name="tiny")
ROOT = Path(__file__).parents[2]


def run_of_a_pipeline(server) -> str:
    found = server.get_experiment_by_name("pipelines")
    return server.create_run(
        found.experiment_id if found else server.create_experiment("pipelines")
    ).info.run_id


def in_between(monkeypatch, work) -> None:
    """Do something once, when a call has put its files into its run and has not made the version yet."""
    put, left = writing._put_files, [work]

    def put_files(*arguments):
        source = put(*arguments)
        if left:
            left.pop()()
        return source

    monkeypatch.setattr(writing, "_put_files", put_files)


def marks(server) -> int:
    experiments = [one.experiment_id for one in server.search_experiments()]
    return sum(BEGUN_TAG in one.data.tags for one in server.search_runs(experiments))


def files_are_there(version) -> bool:
    return (Path(version.source.removeprefix("file://")) / "checkpoint" / "model.safetensors").exists()


@pytest.mark.parametrize("pipelines", [True, False], ids=["runs of pipelines", "runs of register"])
def test_a_call_that_was_overtaken_takes_the_other_s_version(
    server, two_models, tmp_path, monkeypatch, pipelines
):
    model = two_models[0]
    other = []
    runs = [run_of_a_pipeline(server) if pipelines else None for _ in range(2)]
    in_between(
        monkeypatch,
        lambda: other.append(register(model, SPEC, tags={"regrow.plan": "B"}, metrics={}, run_id=runs[1])),
    )
    done = register(model, SPEC, tags={"regrow.scores": "A"}, metrics={}, run_id=runs[0])
    (version,) = versions("tiny")
    assert (done.version, done.completed) == (other[0].version, ()) == ("1", other[0].completed)
    assert version.finished and version.source == other[0].source and files_are_there(version)
    assert (version.tags["regrow.plan"], version.tags["regrow.scores"]) == ("B", "A")
    assert version.tags["regrow.run"] == done.run_id != version.run_id == other[0].run_id
    # What the first had copied is of no use any more; the second has left it to the first.
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    assert marks(server) == 0


def test_what_a_call_on_another_machine_has_begun_is_left_to_it_for_a_day(
    server, two_models, tmp_path, monkeypatch
):
    class DiedError(BaseException):
        pass

    def die():
        raise DiedError

    with monkeypatch.context() as patch:
        patch.setattr("regrow.processes._host", lambda: "elsewhere")
        in_between(patch, die)
        with pytest.raises(DiedError):
            register(two_models[0], SPEC, tags={}, metrics={}, run_id=run_of_a_pipeline(server))
    (copied,) = tmp_path.rglob("*.safetensors")
    first = register(two_models[0], SPEC, tags={}, metrics={})
    assert copied.exists() and marks(server) == 1 and first.completed == ()

    real = begun.seconds_left
    monkeypatch.setattr(begun, "seconds_left", lambda *args: max(0, real(*args) - begun.LEASE))
    later = register(two_models[0], SPEC, tags={}, metrics={}, run_id=run_of_a_pipeline(server))
    assert later.version == first.version and marks(server) == 0 and not copied.exists()
    assert later.completed[0].startswith("removed what an earlier call had copied into the MLflow run")
    assert files_are_there(versions("tiny")[0])


def test_a_mark_of_an_earlier_regrow_names_no_call_and_is_cleared_away(server, two_models, tmp_path):
    run = run_of_a_pipeline(server)
    server.set_tag(run, BEGUN_TAG, f"tiny {two_models[0].digest}")
    server.log_text(run, "half", f"models/{two_models[0].digest[:16]}/checkpoint/half.safetensors")
    done = register(two_models[0], SPEC, tags={}, metrics={}, run_id=run_of_a_pipeline(server))
    assert done.completed == (f"removed what an earlier call had copied into the MLflow run {run}",)
    assert marks(server) == 0 and not list(tmp_path.rglob("half.safetensors"))


SLOW = """
import sys, time
from pathlib import Path
from regrow.checkpoint import Checkpoint
from regrow.registry import RegistrySpec, register, writing

put = writing._put_files
def slow(*arguments):
    source = put(*arguments)
    Path("copied").touch()
    while not Path("go on").exists():
        time.sleep(0.05)
    return source
writing._put_files = slow
done = register(Checkpoint.open(sys.argv[1]), RegistrySpec(name="tiny"), tags={}, metrics={}, run_id=sys.argv[2])
print(done.version, done.source)
"""


@pytest.mark.processes
@pytest.mark.parametrize("dies", [False, True])
def test_two_processes(server, two_models, tmp_path, dies):
    model, run = two_models[0], run_of_a_pipeline(server)
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, str(model.folder), run],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as slow:
        while not (tmp_path / "copied").exists():
            assert slow.poll() is None
            time.sleep(0.05)
        if dies:
            slow.kill()
            slow.wait()
        done = register(model, SPEC, tags={}, metrics={}, run_id=run_of_a_pipeline(server))
        assert bool(done.completed) is dies
        (tmp_path / "go on").touch()
        said = slow.communicate()[0].split()
    assert said == ([] if dies else ["1", done.source])
    (version,) = versions("tiny")
    assert digest_of(Path(version.source.removeprefix("file://")) / "checkpoint") == model.digest
    assert len(weights_below(tmp_path)) == 1 and len(list(tmp_path.rglob("*.safetensors"))) == 1
    assert marks(server) == 0
