"""A tuning step that loses its worker, its container, and its pod in good order; it ends like an unbroken one."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.pipelines.project import Project, tiny_config

pytestmark = pytest.mark.cluster
STEPS = 40


class Run:
    """`regrow run` in a process group of its own."""

    def __init__(self, project: Project, config: str, name: str) -> None:
        self.project, self.log = project, project.folder / f"{name}.log"
        with self.log.open("w") as stream:
            self.process = subprocess.Popen(
                project.command("run", config, "--json"),
                cwd=project.folder, env=project.environment, stdout=stream, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def until_saved(self, beyond: int) -> int:
        """Wait until tuning has saved a checkpoint beyond a step; return the step."""
        deadline = time.monotonic() + 3600
        while True:
            assert self.process.poll() is None, self.said[-4000:]
            assert time.monotonic() < deadline, self.said[-4000:]
            if (step := self.saved()) > beyond:
                return step
            time.sleep(0.05)

    def saved(self) -> int:
        work = self.project.folder / "runs/work/fine_tune_plants"
        found = work.glob("*/job/*/steps/checkpoint-*/whole")
        return max((int(path.parent.name.rpartition("-")[2]) for path in found), default=0)

    def workers(self) -> list[psutil.Process]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [one for one in children if _is_worker(one)]

    def ended(self) -> int:
        return self.process.wait(3600)

    @property
    def said(self) -> str:
        return self.log.read_text()


def _is_worker(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return "regrow.tune.worker" in words and "accelerate.commands.launch" not in words


def long_config(project: Project) -> str:
    config = tiny_config(project)
    parameters = config["parameters"]
    parameters["datasets"] = parameters["datasets"][:1]
    parameters["tune"] |= {"max_steps": STEPS, "save_every": 1, "micro_batch_size": 4}
    return project.write_config(config)


def tuned(project: Project) -> dict:
    (model,) = [one for one in project.summary["models"] if one["name"] == "tuned-plants"]
    return model


def unbroken(project: Project) -> str:
    """Tune the run's own pruned model on its own set in one go, without ZenML; return the digest."""
    code = (
        "from pathlib import Path\nimport yaml\nfrom pydantic import TypeAdapter\n"
        "import materializers\nfrom regrow.tune import Recipe, tune\nfrom zenml.client import Client\n"
        "pruned, accepted = (Client().get_artifact_version(name).load() for name in ('pruned', 'accepted'))\n"
        "recipe = TypeAdapter(Recipe).validate_python(yaml.safe_load(open('test.yaml'))['parameters']['tune'])\n"
        "print(tune(pruned, accepted.folder, recipe, Path('unbroken')).checkpoint.digest)"
    )
    return project.python(code).splitlines()[-1]


def test_a_step_that_was_stopped_in_every_way_ends_like_an_unbroken_one(tmp_path: Path):
    project = Project(tmp_path)
    config = long_config(project)
    first = Run(project, config, "first")  # the kernel kills the worker, as it does when memory is short
    step = first.until_saved(0)
    (worker,) = first.workers()
    worker.kill()
    assert first.ended() == 1
    assert "the worker was killed, most likely for want of memory" in first.said
    assert "memory of this container: " in first.said and "estimated need" in first.said

    second = Run(project, config, "second")  # the container dies: nobody can say a word
    second.until_saved(step)
    workers = second.workers()
    os.killpg(second.process.pid, signal.SIGKILL)
    second.ended()
    gone, alive = psutil.wait_procs(
        workers, timeout=60
    )  # in a session of their own: they notice by themselves
    assert gone and not alive
    step = second.saved()

    third = Run(project, config, "third")  # the pod is evicted
    step = third.until_saved(step)
    assert "an earlier try of this step was killed after about" in third.said
    assert "Using cached version of step `prune`" in third.said
    third.process.send_signal(signal.SIGTERM)
    assert third.ended() == 75, third.said[-4000:]
    saved = third.saved()
    assert step <= saved < STEPS
    assert f"tuning was stopped, and is saved up to step {saved}" in third.said

    fourth = Run(project, config, "fourth")
    assert fourth.ended() == 0, fourth.said[-4000:]
    assert "an earlier try" not in fourth.said
    assert tuned(project)["digest"] == unbroken(project)
    assert not (project.folder / "runs/work").exists()
    code = (
        "import json, mlflow\n"
        f"mlflow.set_tracking_uri('sqlite:///{project.folder}/runs/store/mlflow.db')\n"
        "version = mlflow.MlflowClient().get_model_version_by_alias('tiny-regrow', 'challenger')\n"
        "print(json.dumps(mlflow.get_run(version.run_id).data.metrics))"
    )
    metrics = json.loads(project.python(code).splitlines()[-1])
    assert metrics["fine_tune.plants.resumed_from"] == saved
    cost = project.summary["cost"]
    assert (
        cost["stages"]["prune"] | {"steps": 0, "cached": 1, "tries": 0, "seconds": 0}
        == cost["stages"]["prune"]
    )
    assert cost["stages"]["fine_tune"]["steps"] == 1
    assert cost["total"]["seconds"] > cost["stages"]["fine_tune"]["seconds"] > 0
    assert cost["total"]["gpu_seconds"] == 0
    assert metrics["cost.total.seconds"] == cost["total"]["seconds"]
    assert metrics["cost.fine_tune_plants.cpus"] >= 1
