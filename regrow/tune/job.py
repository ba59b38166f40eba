"""The contract between the process that asks for a training run and the ones that train."""

import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from regrow.files import canonical_digest
from regrow.tune.recipe import Phase

# Lines of the worker's output that begin with this are progress, the rest are its libraries' words.
EVENT = "@regrow "
# The file in a training checkpoint that is written after all others.
WHOLE = "whole"
# The process that asked; a worker ends when it is gone. Not part of the job: on each machine it is another one.
OWNER = "REGROW_TUNE_OWNER"
# Whatever decides the weights besides the job itself; a run never resumes across a change of these.
_LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate")


class Launch(BaseModel):
    """Where a run's processes are, one machine or several that start the same command."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    processes: int | None = Field(
        default=None, ge=1, description="processes on each machine; none: one for each GPU, one on a CPU"
    )
    nodes: int = Field(default=1, ge=1, description="machines (pods)")
    node_rank: int = Field(default=0, ge=0, description="number of this machine; machine 0 writes the result")
    main_address: str = Field(default="127.0.0.1", description="address of machine 0")
    main_port: int | None = Field(
        default=None, ge=1, le=65535, description="port on machine 0; none: a free one (one machine only)"
    )
    sharding: Literal["auto", "none", "fsdp"] = Field(
        default="auto",
        description="fsdp: weights and optimiser are spread over the GPUs (FSDP 2); auto: if one cannot hold them",
    )


class Job(BaseModel):
    """Everything that the worker needs; written as job.json into the job's folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path = Field(description="the job's folder: examples.jsonl in; log.jsonl, adapter/, merged/ out")
    checkpoint: Path = Field(description="folder of the parent model")
    parent: str = Field(description="digest of the parent model")
    teacher_checkpoint: Path | None = Field(
        default=None, description="folder of the teacher, for distillation"
    )
    teacher: str | None = Field(default=None, description="digest of the teacher")
    data: str = Field(description="digest of the tokenized examples")
    recipe: Phase = Field(description="how to train")
    micro_batch_size: int = Field(description="examples in one forward pass of one process")
    dtype: str = Field(description="torch type that is computed in, and of the frozen weights")
    device: str = Field(description="cpu or cuda")
    processes: int = Field(description="processes that share a step, on all machines")
    sharded: bool = Field(default=False, description="whether FSDP spreads the weights")
    threads: int = Field(description="CPU threads of one process")
    versions: dict[str, str] = Field(description="versions of the training libraries")

    @property
    def digest(self) -> str:
        """SHA-256 over what decides the weights; equal digests mean that a run may be resumed."""
        places = {"folder", "checkpoint", "teacher_checkpoint"}
        return canonical_digest(self.model_dump(mode="json", exclude=places))

    @property
    def accumulation(self) -> int:
        """Forward passes of each process in one optimiser step."""
        return self.recipe.batch_size // (self.micro_batch_size * self.processes)


def whole_checkpoints(folder: Path) -> dict[int, Path]:
    """Return the finished training checkpoints in a job's folder by their step, oldest first."""
    found = [path.parent for path in folder.glob(f"steps/checkpoint-*/{WHOLE}")]
    return dict(sorted((int(path.name.rpartition("-")[2]), path) for path in found))


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that train."""
    return {"python": sys.version.split()[0]} | {name: version(name) for name in _LIBRARIES}


def cpu_threads(processes: int = 1) -> int:
    """CPU threads of each worker: OMP_NUM_THREADS if set, else its share of the cores this process may run on."""
    if (named := os.environ.get("OMP_NUM_THREADS", "")).isdigit() and int(named) > 0:
        return int(named)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def accelerate_config(job: Job, launch: Launch) -> dict[str, Any]:
    """Return the whole configuration of accelerate, so that the user's own default file has no say."""
    config: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        # MULTI_GPU is what starts several processes, on CPUs too (gloo), without MPI.
        "distributed_type": "MULTI_GPU" if job.processes > 1 else "NO",
        "num_machines": launch.nodes,
        "num_processes": job.processes,
        "machine_rank": launch.node_rank,
        "main_process_ip": launch.main_address,
        "mixed_precision": "no",  # the trainer sets it; a second setting could contradict it
        "use_cpu": job.device == "cpu",
        "main_training_function": "main",
        "rdzv_backend": "static",
        "same_network": True,
    }
    if launch.main_port:
        config["main_process_port"] = launch.main_port
    if job.sharded:
        config |= {
            "distributed_type": "FSDP",
            "fsdp_config": {
                "fsdp_version": 2,
                "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "fsdp_reshard_after_forward": True,
                "fsdp_state_dict_type": "SHARDED_STATE_DICT",
                "fsdp_cpu_ram_efficient_loading": False,
                "fsdp_activation_checkpointing": False,  # the recipe decides
            },
        }
    return config
