"""Several pods that tune one model: which one this is, and the command that each runs."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

from regrow.errors import InputError, RegrowError
from regrow.tune import Launch
from regrow.tune.pods import collect, command, launch_of, lay_out
from regrow.tune.recipe import Distill, Lora, Sft
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


@pytest.mark.cluster
@pytest.mark.parametrize("method", ["sft", "distill"])
def test_two_pods_run_one_command_and_leave_one_result(tmp_path: Path, method: str):
    model, teacher = tiny_checkpoint(tmp_path / "model"), tiny_checkpoint(tmp_path / "teacher", seed=1)
    data = tmp_path / "data"
    rows = pandas.read_json(sentences(data / "rows.jsonl"), lines=True)
    rows.to_parquet(data / "records.parquet")
    settings = {"trainable": Lora(r=4), "max_steps": 4, "batch_size": 4}
    recipe = Sft(**settings) if method == "sft" else Distill(**settings)
    shared = tmp_path / "shared volume"
    lay_out(shared, model, data, recipe, teacher if method == "distill" else None)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def pods() -> list[subprocess.Popen]:
        told = {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "REGROW_WORK": str(tmp_path),
            "ZENML_KUBERNETES_POD_COUNT": "2",
            "ZENML_KUBERNETES_MAIN_ADDRESS": "127.0.0.1",
            "ZENML_KUBERNETES_MAIN_PORT": str(port),
        }
        return [
            subprocess.Popen(
                command("$REGROW_WORK/shared volume", teacher=method == "distill"),
                env=os.environ | told | {"JOB_COMPLETION_INDEX": str(index)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for index in (0, 1)
        ]

    running = pods()
    said = [pod.communicate(timeout=600)[0] for pod in running]
    assert [pod.returncode for pod in running] == [0, 0], said
    # Pods that are started once more, because the first ones could not say that they were done, have nothing to do.
    assert [pod.wait(60) for pod in pods()] == [0, 0]
    tuned = collect(shared, tmp_path / "out")
    assert tuned.summary["processes"] == 2 and len(tuned.log) == 4
    assert tuned.checkpoint.digest not in (model.digest, teacher.digest)
    assert not shared.exists()


def test_a_result_that_is_not_there_is_said(tmp_path: Path, tiny):
    (tmp_path / "data").mkdir()
    lay_out(tmp_path / "shared", tiny, tmp_path / "data", Sft())
    with pytest.raises(RegrowError, match="pod 0 left no result"):
        collect(tmp_path / "shared", tmp_path / "out")
