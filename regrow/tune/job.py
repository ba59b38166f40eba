"""The contract between the process that asks for a training run and the one that trains."""

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from regrow.files import canonical_digest
from regrow.tune.recipe import Recipe

# Lines of the worker's output that begin with this are progress, the rest are its libraries' words.
EVENT = "@regrow "
# Whatever decides the weights besides the job itself; a run never resumes across a change of these.
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")


class Job(BaseModel):
    """Everything that the worker needs; written as job.json into the job's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path = Field(description="the job's folder: examples.jsonl in; log.jsonl, adapter/, merged/ out")
    checkpoint: Path = Field(description="folder of the parent model")
    parent: str = Field(description="digest of the parent model")
    data: str = Field(description="digest of the tokenized examples")
    recipe: Recipe = Field(description="how to train")
    dtype: str = Field(description="torch type of the frozen weights in training")
    device: str = Field(description="cpu or cuda")
    processes: int = Field(description="processes that share a step")
    threads: int = Field(description="CPU threads of one process")
    owner: int = Field(description="process id of the one who asked; the worker ends when it does")
    versions: dict[str, str] = Field(description="versions of the training libraries")

    @property
    def digest(self) -> str:
        """SHA-256 over what decides the weights; equal digests mean that a run may be resumed."""
        return canonical_digest(self.model_dump(mode="json", exclude={"folder", "checkpoint", "owner"}))


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that train."""
    return {"python": sys.version.split()[0]} | {name: version(name) for name in _LIBRARIES}


def cpu_threads() -> int:
    """CPU threads a worker may use: OMP_NUM_THREADS if set, else the cores this process may run on."""
    if (named := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(named) > 0:
        return int(named)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def accelerate_config(job: Job) -> dict[str, Any]:
    """Return the whole configuration of accelerate, so that the user's own default file has no say."""
    several = job.processes > 1
    return {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU" if several else "NO",
        "num_machines": 1,
        "num_processes": job.processes,
        "machine_rank": 0,
        "mixed_precision": "no",  # the trainer sets it; a second setting could contradict it
        "use_cpu": job.device == "cpu",
        "main_training_function": "main",
    }
