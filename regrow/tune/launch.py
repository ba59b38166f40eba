"""The parent's side of one training run: check, start the workers, collect the result.

The workers are processes of their own, started by accelerate: their memory is gone when they end, several GPUs
need several processes anyway, and a cluster can start the same command. They talk through files in the
job's folder, which is named after the job's digest: a run that was killed finds its last checkpoint there,
a run with any other setting finds nothing.
"""

import logging
import shutil
import time
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from regrow.checkpoint import Checkpoint
from regrow.device import device
from regrow.errors import InputError
from regrow.files import atomic_folder, full_disk_is_clear, link_or_copy, read_json, write_json
from regrow.tune import data as examples_of
from regrow.tune.data import Examples
from regrow.tune.follow import Follower, OutOfMemoryError, run
from regrow.tune.job import Job, Launch, cpu_threads, library_versions
from regrow.tune.recipe import Distill, Sft, Training
from regrow.tune.tuned import Tuned

log = logging.getLogger(__name__)


def train(
    checkpoint: Checkpoint,
    data: Path,
    recipe: Sft | Distill,
    out: Path,
    *,
    work: Path,
    teacher: Checkpoint | None = None,
    launch: Launch | None = None,
    follower: Follower | None = None,
) -> Tuned | None:
    """Train once, by one recipe on one dataset; arguments, result and errors as in `regrow.tune.tune`."""
    launch = launch or Launch()
    if out.exists():
        raise InputError(f"{out}: already exists; name another --out folder or remove it")
    _check_means(recipe)
    if isinstance(recipe, Distill):
        _check_teacher(checkpoint, teacher)
    rows = examples_of.read_rows(data, recipe)
    examples = examples_of.encode(rows, checkpoint.chat_tokenizer(), recipe)
    started = time.monotonic()
    job = _prepared(checkpoint, teacher, examples, recipe, work, launch)
    if not (job.folder / "result.json").exists():
        job = _run(job, examples, launch, follower)
    if launch.node_rank:
        return None
    tuned = _collected(job, examples, out, time.monotonic() - started)
    shutil.rmtree(job.folder, ignore_errors=True)
    with suppress(OSError):
        work.rmdir()  # only when no other job left its folder in it
    return tuned


def _check_means(recipe: Training) -> None:
    if recipe.trainable.kind != "qlora":
        return
    if device() != "cuda":
        raise InputError(
            "recipe.trainable.kind qlora: needs a CUDA GPU, and this machine has none; use lora, or run it where one is"
        )
    if find_spec("bitsandbytes") is None:
        raise InputError("recipe.trainable.kind qlora: needs the package bitsandbytes; install regrow[qlora]")


def _check_teacher(student: Checkpoint, teacher: Checkpoint | None) -> None:
    from regrow.tune.teacher import same_vocabulary

    if teacher is None:
        raise InputError("recipe.method distill: needs the unpruned model; name it with --teacher MODEL")
    same_vocabulary(teacher, student)


def _run(job: Job, examples: Examples, launch: Launch, follower: Follower | None) -> Job:
    """Run the job; where the batch was left to us and does not fit after all, run it in smaller passes."""
    while True:
        try:
            run(job, launch, follower)
            return job
        except OutOfMemoryError:
            if job.recipe.micro_batch_size != "auto" or job.micro_batch_size == 1:
                raise
            smaller = max(
                n for n in _divisors(job.recipe.batch_size // job.processes) if n < job.micro_batch_size
            )
            log.warning(
                "%d examples in one forward pass do not fit into memory; going on with %d, %d times a step: a step "
                "has %d examples as before",
                job.micro_batch_size, smaller, job.recipe.batch_size // (smaller * job.processes),
                job.recipe.batch_size,
            )  # fmt: skip
            job = _written(job.model_copy(update={"micro_batch_size": smaller}), examples, job.folder.parent)


def _prepared(
    checkpoint: Checkpoint,
    teacher: Checkpoint | None,
    examples: Examples,
    recipe: Sft | Distill,
    work: Path,
    launch: Launch,
) -> Job:
    """Decide what the recipe leaves open, and write the job's folder."""
    import torch

    where = device()
    local = launch.processes or (torch.cuda.device_count() if where == "cuda" else 1)
    processes = local * launch.nodes
    if where == "cuda" and local > torch.cuda.device_count():
        raise InputError(
            f"processes {local}: this machine has {torch.cuda.device_count()} GPUs; one process each"
        )
    if launch.nodes > 1 and launch.main_port is None:
        raise InputError("main_port: several machines must agree on a port; name one")
    if launch.node_rank >= launch.nodes:
        raise InputError(
            f"node_rank {launch.node_rank}: the machines have the numbers 0 to {launch.nodes - 1}"
        )
    job = Job(
        folder=work,
        checkpoint=checkpoint.folder,
        parent=checkpoint.digest,
        teacher_checkpoint=teacher.folder if teacher and isinstance(recipe, Distill) else None,
        teacher=teacher.digest if teacher and isinstance(recipe, Distill) else None,
        data=examples.digest,
        recipe=recipe,
        micro_batch_size=_micro_batch_size(recipe, processes),
        dtype=_dtype(checkpoint, recipe, where),
        device=where,
        processes=processes,
        sharded=launch.sharding == "fsdp",
        threads=cpu_threads(local if where == "cpu" else 1),
        versions=library_versions(),
    )
    return _written(job, examples, work)


def _written(job: Job, examples: Examples, work: Path) -> Job:
    job = job.model_copy(update={"folder": work / job.digest[:16]})
    job.folder.mkdir(parents=True, exist_ok=True)
    with full_disk_is_clear(job.folder):
        examples_of.write_examples(examples, job.folder / "examples.jsonl")
        write_json(job.folder / "job.json", job.model_dump(mode="json"))
    return job


def _dtype(checkpoint: Checkpoint, recipe: Training, where: str) -> str:
    import torch

    chosen = checkpoint.compute_dtype(recipe.dtype, where)
    # float16 training needs loss scaling; the range of float32 does not.
    return str(torch.float32 if chosen == torch.float16 else chosen).removeprefix("torch.")


def _micro_batch_size(recipe: Training, processes: int) -> int:
    if recipe.batch_size % processes:
        raise InputError(
            f"recipe.batch_size {recipe.batch_size}: cannot be shared by {processes} processes; make it a multiple"
        )
    share = recipe.batch_size // processes
    if not isinstance(recipe.micro_batch_size, int):
        return share
    if share % recipe.micro_batch_size:
        raise InputError(
            f"recipe.micro_batch_size {recipe.micro_batch_size}: does not divide the {share} examples that each of "
            f"{processes} processes has of a step"
        )
    return recipe.micro_batch_size


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _collected(job: Job, examples: Examples, out: Path, seconds: float) -> Tuned:
    """Make the result's folder of what the workers left.

    Links, not moves: a run killed here still finds its finished work.
    """
    result = read_json(job.folder / "result.json")
    with atomic_folder(out) as scratch:
        for name, target in (("merged", "checkpoint"), ("adapter", "adapter")):
            for file in (job.folder / name).rglob("*"):
                if file.is_file():
                    link_or_copy(file, scratch / target / file.relative_to(job.folder / name))
        link_or_copy(job.folder / "log.jsonl", scratch / "log.jsonl")
        merged = (scratch / "checkpoint").exists()
        summary = {
            "method": job.recipe.method,
            "trainable": job.recipe.trainable.kind,
            "job": job.digest,
            "parent": job.parent,
            **({"teacher": job.teacher} if job.teacher else {}),
            "checkpoint": Checkpoint.open(scratch / "checkpoint").digest if merged else None,
            "data": examples.digest,
            **examples.summary(),
            "batch_size": job.recipe.batch_size,
            "micro_batch_size": job.micro_batch_size,
            "gradient_accumulation": job.accumulation,
            **result,
            "wall_seconds": round(seconds, 2),
            "recipe": job.recipe.model_dump(mode="json"),
            "versions": job.versions,
        }
        write_json(scratch / "summary.json", summary)
    return Tuned.open(out)
