import os
import subprocess
import sys
from pathlib import Path

import pytest

from regrow.tune.job import Launch, accelerate_config
from tests.tiny import tiny_checkpoint
from tests.tune.training import prepared, sentences


@pytest.mark.parametrize("tied", [True, False])
def test_losses_and_gradients_of_a_sharded_model_are_those_of_the_whole(tmp_path: Path, tied: bool):
    settings = {"initializer_range": 0.2, "tie_word_embeddings": tied}
    student = tiny_checkpoint(tmp_path / "student", num_hidden_layers=4, **settings)
    teacher = tiny_checkpoint(tmp_path / "teacher", seed=1, **settings)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "tests.tune.sharded", str(student.folder), str(teacher.folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_sharding_asks_accelerate_for_fsdp_2(tmp_path: Path):
    job = prepared(tiny_checkpoint(tmp_path / "m"), sentences(tmp_path / "d.jsonl"), tmp_path)
    config = accelerate_config(job.model_copy(update={"sharded": True, "device": "cuda"}), Launch())
    assert config["distributed_type"] == "FSDP" and config["fsdp_config"]["fsdp_version"] == 2
    assert "fsdp_config" not in accelerate_config(job, Launch())
