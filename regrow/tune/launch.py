"""The parent's side of one training run: check, start the workers, collect the result.

The workers are processes of their own, started by accelerate: their memory is gone when they end, several GPUs
need several processes anyway, and a cluster can start the same command. They talk through files in the
job's folder, which is named after the job's digest: a run that was killed finds its last checkpoint there,
a run with any other setting finds nothing.
"""

import logging
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.files import atomic_folder, link_or_copy, read_json, sha256_of, write_json
from regrow.lineage import Resource, material, record
from regrow.tune import data as examples_of
from regrow.tune.data import Examples
from regrow.tune.estimate import divisors
from regrow.tune.follow import Follower, OutOfMemoryError, run
from regrow.tune.job import Job, Launch
from regrow.tune.prepare import prepare, write_job
from regrow.tune.recipe import Distill, Sft
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
    mixed_from: Sequence[Path] = (),
) -> Tuned | None:
    """Train once, by one recipe on one dataset; arguments, result and errors as in `regrow.tune.tune`.

    `mixed_from` names the sets that `data` was made of, for the statement.
    """
    began = datetime.now(UTC)
    launch = launch or Launch()
    if out.exists():
        raise InputError(f"{out}: already exists; name another --out folder or remove it")
    rows = examples_of.read_rows(data, recipe)
    examples = examples_of.encode(rows, checkpoint.chat_tokenizer(), recipe)
    started = time.monotonic()
    job = prepare(checkpoint, teacher, examples, recipe, work, launch)
    if not (job.folder / "result.json").exists():
        job = _run(job, examples, launch, follower)
    if launch.node_rank:
        return None
    models = [checkpoint, teacher] if teacher else [checkpoint]
    sets = [data, *mixed_from]
    tuned = _collected(job, examples, out, time.monotonic() - started, models, sets, began)
    shutil.rmtree(job.folder, ignore_errors=True)
    with suppress(OSError):
        work.rmdir()  # only when no other job left its folder in it
    return tuned


def _run(job: Job, examples: Examples, launch: Launch, follower: Follower | None) -> Job:
    """Run the job; where the batch was left to us and does not fit after all, run it in smaller passes."""
    while True:
        try:
            run(job, launch, follower)
            return job
        except OutOfMemoryError:
            # Other machines would not follow: they see that this one is gone, and fail.
            if job.recipe.micro_batch_size != "auto" or job.micro_batch_size == 1 or launch.nodes > 1:
                raise
            smaller = max(
                n for n in divisors(job.recipe.batch_size // job.processes) if n < job.micro_batch_size
            )
            log.warning(
                "%d examples in one forward pass do not fit into memory; going on with %d, %d times a step: a step "
                "has %d examples as before",
                job.micro_batch_size, smaller, job.recipe.batch_size // (smaller * job.processes),
                job.recipe.batch_size,
            )  # fmt: skip
            larger = job.folder
            job = write_job(
                job.model_copy(update={"micro_batch_size": smaller}), examples, job.folder.parent,
                read_json(larger / "estimate.json"),
            )  # fmt: skip
            shutil.rmtree(larger, ignore_errors=True)


def _collected(
    job: Job,
    examples: Examples,
    out: Path,
    seconds: float,
    models: Sequence[Checkpoint],
    sets: Sequence[Path],
    began: datetime,
) -> Tuned:
    """Make the result's folder of what the workers left.

    Links, not moves: a run killed here still finds its finished work.
    """
    result, expected = read_json(job.folder / "result.json"), read_json(job.folder / "estimate.json")
    with atomic_folder(out) as scratch:
        for name, target in (("merged", "checkpoint"), ("adapter", "adapter")):
            for file in (job.folder / name).rglob("*"):
                if file.is_file():
                    link_or_copy(file, scratch / target / file.relative_to(job.folder / name))
        link_or_copy(job.folder / "log.jsonl", scratch / "log.jsonl")
        merged = (scratch / "checkpoint").exists()
        summary: dict[str, Any] = {
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
            # None where the model's architecture could not be estimated.
            "estimated_bytes": sum(expected["parts"].values()) or None,
            "estimated_parts": expected["parts"],
            "estimated_seconds": round(expected["seconds"], 2) or None,
            "wall_seconds": round(seconds, 2),
            "recipe": job.recipe.model_dump(mode="json"),
            "versions": job.versions,
        }
        write_json(scratch / "summary.json", summary)
        if merged:
            _state(Checkpoint.open(scratch / "checkpoint"), job, summary, models, sets, began)
    return Tuned.open(out)


def _state(
    tuned: Checkpoint,
    job: Job,
    summary: dict[str, Any],
    models: Sequence[Checkpoint],
    sets: Sequence[Path],
    began: datetime,
) -> None:
    """State which model was tuned on which sets by which recipe."""
    parts = ("job", "data", "examples", "steps", "tokens", "batch_size", "final_loss", "versions")
    record(
        "tune",
        tuned,
        [*(material(one, "checkpoint") for one in models), *map(_set, sets)],
        parameters=job.recipe.model_dump(mode="json"),
        details={name: summary[name] for name in parts if name in summary}
        | {"parent": job.parent, "teacher": job.teacher},
        started=began,
        inherit=[*(one.folder for one in models), *sets],
    )


def _set(data: Path) -> Resource:
    """Describe a training set, by what names it: a folder by its rows, a file by its bytes."""
    if (summary := data / "summary.json").exists():
        return material(data, "dataset", digest=read_json(summary)["digest"])
    return material(data, "dataset", digest=sha256_of(data) if data.is_file() else None)
