"""Several pods that tune one model: which one this is, and the command that each runs."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest

from regrow.errors import InputError, RegrowError
from regrow.tune import Launch
from regrow.tune.pods import check, collect, command, launch_of, lay_out
from regrow.tune.recipe import Distill, Lora, Sft, TeacherCorrection
from tests.tiny import tiny_checkpoint
from tests.tune.training import sentences

ZENML = {
    "ZENML_KUBERNETES_POD_COUNT": "4",
    "ZENML_KUBERNETES_MAIN_ADDRESS": "tune-0.tune.regrow.svc",
    "ZENML_KUBERNETES_MAIN_PORT": "29500",
    "JOB_COMPLETION_INDEX": "3",
}
TORCHRUN = {
    "PET_NNODES": "2",
    "PET_NODE_RANK": "0",
    "PET_MASTER_ADDR": "10.0.0.7",
    "PET_MASTER_PORT": "23456",
}


def test_zenmls_names_are_the_ones_that_it_sets():
    from zenml.integrations.kubernetes.kube_utils import multi_pod_environment

    told = multi_pod_environment(job_name="tune", namespace="regrow", pod_count=4)
    assert told.items() <= ZENML.items()
    assert launch_of({**told, "JOB_COMPLETION_INDEX": "3"}, processes=8) == Launch(
        processes=8, nodes=4, node_rank=3, main_address="tune-0.tune.regrow.svc", main_port=29500
    )


def test_torchruns_names():
    assert launch_of(TORCHRUN) == Launch(nodes=2, node_rank=0, main_address="10.0.0.7", main_port=23456)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "not one of several pods"),
        (
            {name: value for name, value in ZENML.items() if name != "JOB_COMPLETION_INDEX"},
            "JOB_COMPLETION_INDEX",
        ),
        (ZENML | {"JOB_COMPLETION_INDEX": "first"}, "JOB_COMPLETION_INDEX=first"),
        (TORCHRUN | {"PET_NNODES": "0"}, "PET_NNODES=0"),
    ],
)
def test_what_the_environment_does_not_say_is_named(environment, message):
    with pytest.raises(InputError, match=message):
        launch_of(environment)


class Pods:
    """Two pods of one command on one machine, which share a folder."""

    def __init__(self, folder: Path, recipe: Sft | Distill, *, distill: bool = False) -> None:
        self.folder, self.shared, self._distill = folder, folder / "shared volume", distill
        self.model, teacher = tiny_checkpoint(folder / "model"), tiny_checkpoint(folder / "teacher", seed=1)
        data = folder / "data"
        rows = pandas.read_json(sentences(data / "rows.jsonl"), lines=True)
        rows.to_parquet(data / "records.parquet")
        lay_out(self.shared, self.model, data, recipe, teacher if distill else None)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]

    def start(self, line: list[str] | None = None) -> list[subprocess.Popen]:
        told = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "REGROW_WORK": str(self.folder),
            "ZENML_KUBERNETES_POD_COUNT": "2",
            "ZENML_KUBERNETES_MAIN_ADDRESS": "127.0.0.1",
            "ZENML_KUBERNETES_MAIN_PORT": str(self._port),
        }
        return [
            subprocess.Popen(
                line or command("$REGROW_WORK/shared volume", teacher=self._distill),
                env=os.environ | told | {"JOB_COMPLETION_INDEX": str(index)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for index in (0, 1)
        ]

    def log(self) -> list[str]:
        found = [file.read_text().splitlines() for file in self.shared.glob("work/*/log.jsonl")]
        return found[0] if found else []


def ended(pods: list[subprocess.Popen]) -> tuple[list[int], list[str]]:
    said = [pod.communicate(timeout=600)[0] for pod in pods]
    return [pod.returncode for pod in pods], said


@pytest.mark.processes
@pytest.mark.parametrize("method", ["sft", "online", "top_k"])
def test_two_pods_run_one_command_and_leave_one_result(tmp_path: Path, method: str):
    settings = {"trainable": Lora(r=4), "max_steps": 4, "batch_size": 4}
    recipe = Sft(**settings) if method == "sft" else Distill(**settings, teacher=method)
    pods = Pods(tmp_path, recipe, distill=method != "sft")
    statuses, said = ended(pods.start())
    assert statuses == [0, 0], said
    # Pods that are started once more, because the first ones could not say that they were done, have nothing to do.
    assert [pod.wait(60) for pod in pods.start()] == [0, 0]
    tuned = collect(pods.shared, tmp_path / "out")
    assert tuned.summary["processes"] == 2 and len(tuned.log) == 4
    assert tuned.checkpoint.digest != pods.model.digest
    # Whoever collects may die before the result is stored.
    assert collect(pods.shared, tmp_path / "again").checkpoint.digest == tuned.checkpoint.digest


@pytest.mark.processes
def test_pods_that_were_ended_go_on_together_and_end_like_unbroken_ones(tmp_path: Path):
    recipe = Sft(trainable=Lora(r=4), max_steps=12, batch_size=4, save_every=2)
    whole, broken = Pods(tmp_path / "whole", recipe), Pods(tmp_path / "broken", recipe)
    statuses, said = ended(whole.start())
    assert statuses == [0, 0], said

    running = broken.start()
    while len(broken.log()) < 5:
        assert all(pod.poll() is None for pod in running), ended(running)
        time.sleep(0.02)
    running[1].send_signal(signal.SIGTERM)  # one pod's node goes away; the other must not go on alone
    statuses, said = ended(running)
    assert statuses == [75, 75], said

    # Machines that do not see each other's checkpoints say so, and do not wait for each other.
    apart = ["sh", "-c", 'cd "$REGROW_WORK/shared volume"; cp -r work "w$JOB_COMPLETION_INDEX"; '
             '[ "$JOB_COMPLETION_INDEX" = 0 ] || rm -r w1/*/steps; '
             "exec regrow tune given/model --data given/data --recipe given/recipe.yaml --nodes auto "
             '--work "w$JOB_COMPLETION_INDEX" --out elsewhere']  # fmt: skip
    statuses, said = ended(broken.start(apart))
    assert statuses == [2, 2] and "step reached is" in said[0], said

    statuses, said = ended(broken.start())
    assert statuses == [0, 0], said
    one, other = collect(whole.shared, tmp_path / "one"), collect(broken.shared, tmp_path / "other")
    assert other.summary["resumed_from"] >= 4
    assert one.checkpoint.digest == other.checkpoint.digest
    assert [entry["loss"] for entry in one.log] == [entry["loss"] for entry in other.log]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Sft(batch_size=8), "batch_size 8: cannot be shared by 16 processes"),
        (TeacherCorrection(), "two phases cannot share the pods"),
    ],
)
def test_what_pods_cannot_train_together_is_refused(recipe, message):
    with pytest.raises(InputError, match=message):
        check(recipe, 16)
    check(Sft(batch_size=32), 16)


def test_a_result_that_is_not_there_is_said(tmp_path: Path, tiny):
    (tmp_path / "data").mkdir()
    lay_out(tmp_path / "shared", tiny, tmp_path / "data", Sft())
    with pytest.raises(RegrowError, match="pod 0 left no result"):
        collect(tmp_path / "shared", tmp_path / "out")
