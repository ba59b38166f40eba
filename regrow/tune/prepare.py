"""What a recipe leaves open, decided for this machine: device, type, forward passes, sharding; and the job's folder."""

import logging
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from regrow.checkpoint import Checkpoint
from regrow.device import device, free_memory
from regrow.errors import InputError, RegrowError
from regrow.files import full_disk_is_clear, write_json
from regrow.tune import data as examples_of
from regrow.tune.data import Examples
from regrow.tune.estimate import Estimate, Setting, check, estimate, largest_micro_batch
from regrow.tune.job import Job, Launch, cpu_threads, library_versions
from regrow.tune.recipe import Distill, Sft, Training

log = logging.getLogger(__name__)
_HEADROOM = 0.9  # share of the free memory that an automatic batch may take


def prepare(
    checkpoint: Checkpoint,
    teacher: Checkpoint | None,
    examples: Examples,
    recipe: Sft | Distill,
    work: Path,
    launch: Launch,
) -> Job:
    """Decide what the recipe leaves open, and write the job's folder.

    Args:
        checkpoint: the model to tune.
        teacher: the unpruned model, for distillation.
        examples: what is trained on.
        recipe: how.
        work: folder in which the job's folder is made.
        launch: processes and machines.

    Raises:
        InputError: the recipe needs what this machine has not, or more memory than there is.
    """
    where = device()
    _check_means(recipe, launch, where)
    local = launch.processes or (_gpus() if where == "cuda" else 1)
    processes = local * launch.nodes
    share = share_of(recipe, processes)
    if isinstance(recipe, Distill):
        _check_teacher(checkpoint, teacher)
    counts = examples.summary()
    setting, expected = _fitted(
        Setting(
            parent=checkpoint,
            recipe=recipe,
            lengths=[len(tokens) for tokens in examples.tokens],
            micro_batch_size=recipe.micro_batch_size if isinstance(recipe.micro_batch_size, int) else share,
            dtype=_dtype(checkpoint, recipe, where),
            device=where,
            processes=processes if where == "cuda" else local,
            sharded=launch.sharding == "fsdp",
            teacher=teacher if isinstance(recipe, Distill) else None,
            learned=counts["response_tokens_per_epoch"] / counts["tokens_per_epoch"],
        ),
        share,
        launch,
    )
    job = Job(
        folder=work,
        checkpoint=checkpoint.folder,
        parent=checkpoint.digest,
        teacher_checkpoint=teacher.folder if teacher and isinstance(recipe, Distill) else None,
        teacher=teacher.digest if teacher and isinstance(recipe, Distill) else None,
        data=examples.digest,
        recipe=recipe,
        micro_batch_size=setting.micro_batch_size,
        dtype=setting.dtype,
        device=where,
        processes=processes,
        sharded=setting.sharded,
        threads=cpu_threads(local if where == "cpu" else 1),
        versions=library_versions(),
    )
    return write_job(job, examples, work, asdict(expected))


def write_job(job: Job, examples: Examples, work: Path, expected: dict[str, Any]) -> Job:
    """Write the job's folder below `work`, named after what decides the weights; return the job that knows it."""
    job = job.model_copy(update={"folder": work / job.digest[:16]})
    job.folder.mkdir(parents=True, exist_ok=True)
    with full_disk_is_clear(job.folder):
        examples_of.write_examples(examples, job.folder / "examples.jsonl")
        write_json(job.folder / "estimate.json", expected)
        write_json(job.folder / "job.json", job.model_dump(mode="json"))
    return job


def _fitted(setting: Setting, share: int, launch: Launch) -> tuple[Setting, Estimate]:
    """Choose sharding and the forward pass where they are left to us; refuse what cannot fit."""
    try:
        return _estimated(setting, share, launch)
    except RegrowError:
        raise
    except (
        Exception
    ) as error:  # an operation that torch cannot run without content must not keep a model from training
        first = str(error).strip().partition("\n")[0]
        log.warning("memory and time cannot be estimated for this model (%s); the run starts without", first)
        return setting, Estimate({}, 0.0)


def _estimated(setting: Setting, share: int, launch: Launch) -> tuple[Setting, Estimate]:
    available = free_memory()

    def sized(one: Setting) -> Setting:
        if one.recipe.micro_batch_size != "auto":
            return one
        return replace(one, micro_batch_size=largest_micro_batch(one, share, int(_HEADROOM * available)))

    setting = sized(setting)
    expected = estimate(setting)
    several = setting.device == "cuda" and setting.processes > 1
    if launch.sharding == "auto" and several and expected.bytes > available:
        setting = sized(replace(setting, sharded=True))
        expected = estimate(setting)
    check(setting, expected, share, available)
    log.info(
        "estimated: %.1f of %.1f GiB, %.0f s; %d examples in a forward pass, %d in a step",
        expected.bytes / 2**30, available / 2**30, expected.seconds, setting.micro_batch_size,
        setting.recipe.batch_size,
    )  # fmt: skip
    return setting, expected


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _check_means(recipe: Training, launch: Launch, where: str) -> None:
    if recipe.trainable.kind == "qlora":
        if where != "cuda":
            raise InputError(
                "recipe.trainable.kind qlora: needs a CUDA GPU, and this machine has none; use lora, or run it where "
                "one is"
            )
        if find_spec("bitsandbytes") is None:
            raise InputError(
                "recipe.trainable.kind qlora: needs the package bitsandbytes; install regrow[qlora]"
            )
    if where == "cuda" and (launch.processes or 1) > _gpus():
        raise InputError(f"processes {launch.processes}: this machine has {_gpus()} GPUs; one process each")
    if launch.sharding == "fsdp" and where != "cuda":
        raise InputError(
            "sharding fsdp: accelerate shards on GPUs alone, and this machine has none; leave it out"
        )
    if launch.nodes > 1 and launch.main_port is None:
        raise InputError("main_port: several machines must agree on a port; name one")
    if launch.node_rank >= launch.nodes:
        raise InputError(
            f"node_rank {launch.node_rank}: the machines have the numbers 0 to {launch.nodes - 1}"
        )


def _check_teacher(student: Checkpoint, teacher: Checkpoint | None) -> None:
    from regrow.tune.teacher import same_vocabulary

    if teacher is None:
        raise InputError("recipe.method distill: needs the unpruned model; name it with --teacher MODEL")
    same_vocabulary(teacher, student)


def _dtype(checkpoint: Checkpoint, recipe: Training, where: str) -> str:
    import torch

    chosen = checkpoint.compute_dtype(recipe.dtype, where)
    # float16 training needs loss scaling; the range of float32 does not.
    return str(torch.float32 if chosen == torch.float16 else chosen).removeprefix("torch.")


def share_of(recipe: Training, processes: int) -> int:
    """Return how many examples of a step each process has.

    Raises:
        InputError: they cannot be shared evenly.
    """
    if recipe.batch_size % processes:
        raise InputError(
            f"recipe.batch_size {recipe.batch_size}: cannot be shared by {processes} processes; make it a multiple"
        )
    share = recipe.batch_size // processes
    if isinstance(recipe.micro_batch_size, int) and share % recipe.micro_batch_size:
        raise InputError(
            f"recipe.micro_batch_size {recipe.micro_batch_size}: does not divide the {share} examples that each of "
            f"{processes} processes has of a step"
        )
    return share
