"""From a recipe to training runs: one, or two in turn."""

import json
import logging
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.files import atomic_folder, canonical_digest, link_or_copy, sha256_of, write_json
from regrow.tune.change import most_changed
from regrow.tune.data import data_file, read_rows
from regrow.tune.follow import Follower
from regrow.tune.job import Launch
from regrow.tune.launch import train
from regrow.tune.recipe import Continual, Distill, Sft, TeacherCorrection
from regrow.tune.tuned import Tuned

log = logging.getLogger(__name__)


def tune(
    checkpoint: Checkpoint,
    data: Path | Sequence[Path],
    recipe: Sft | Distill | TeacherCorrection | Continual,
    out: Path,
    *,
    work: Path | None = None,
    teacher: Checkpoint | None = None,
    launch: Launch | None = None,
    follower: Follower | None = None,
) -> Tuned | None:
    """Tune a model on a dataset by a recipe.

    A run that was interrupted continues from its last checkpoint when it is asked for again with the same
    models, data, recipe, libraries and `work`, and ends with the same weights as an unbroken one.

    Args:
        checkpoint: the model to tune (the pruned one); needs a chat template.
        data: a SelfData folder, or a file with the columns instruction and response (or reference); for
            `continual` two of them.
        recipe: method, weights, optimiser and budget.
        out: folder that appears when all is done: checkpoint/, adapter/ where there is one, log.jsonl, summary.json,
            and for a chain of runs phases/ with log and summary of the earlier one.
        work: folder for the unfinished run, on a volume that outlives the machine; a hidden sibling of `out` if not
            given.
        teacher: the unpruned model, for the methods that distil from it.
        launch: processes and machines; one process for each GPU of this machine, or one on its CPU, if not given.
        follower: is handed every entry of the log as it is made, such as one that sends them to MLflow.

    Returns:
        The result; none on machines other than the first.

    Raises:
        InputError: `out` exists, the data cannot be used, the models do not fit each other, the recipe needs what is
            not there.
        InterruptedRunError: SIGTERM came; the run has saved, and the same call continues it.
        RegrowError: training failed (the message is the worker's), or the disk is full.
    """
    if out.exists():
        raise InputError(f"{out}: already exists; name another --out folder or remove it")
    files = [data] if isinstance(data, str | Path) else list(data)
    wanted = 2 if isinstance(recipe, Continual) else 1
    if len(files) != wanted:
        raise InputError(f"--data: method {recipe.method} takes {wanted} of them, not {len(files)}")
    work = (work or out.parent / f".{out.name}.work").absolute()
    common: dict[str, Any] = {"launch": launch, "follower": follower}
    if isinstance(recipe, Sft | Distill):
        return train(checkpoint, files[0], recipe, out, work=work, teacher=teacher, **common)
    if launch and launch.nodes > 1:
        raise InputError(
            f"method {recipe.method}: its two phases cannot share one call on several machines; run them one by one"
        )
    if isinstance(recipe, TeacherCorrection) and teacher is None:
        raise InputError("method teacher_correction: needs the unpruned model; name it with --teacher MODEL")
    folder = work / _key(checkpoint, teacher, files, recipe)
    phases = _corrected if isinstance(recipe, TeacherCorrection) else _continued
    earlier, last = phases(checkpoint, files, recipe, folder, teacher, common)  # type: ignore[arg-type]
    result = _joined(recipe, earlier, last, out)
    shutil.rmtree(folder, ignore_errors=True)
    return result


def _key(checkpoint: Checkpoint, teacher: Checkpoint | None, files: list[Path], recipe: Any) -> str:
    """Name the chain by what goes into it."""
    parts = {
        "model": checkpoint.digest,
        "teacher": teacher.digest if teacher else None,
        "data": [sha256_of(data_file(file)) if data_file(file).is_file() else str(file) for file in files],
        "recipe": recipe.model_dump(mode="json"),
    }
    return canonical_digest(parts)[:16]


def _phase(out: Path, run: Callable[[Path], Tuned | None]) -> Tuned:
    """Return the result of a phase, which an interrupted chain may have already."""
    tuned = Tuned.open(out) if out.exists() else run(out)
    assert tuned is not None
    return tuned


def _corrected(
    checkpoint: Checkpoint,
    files: list[Path],
    recipe: TeacherCorrection,
    folder: Path,
    teacher: Checkpoint,
    common: dict[str, Any],
) -> tuple[Tuned, Tuned]:
    """Tune the teacher on the set, then distil from it."""
    log.info("phase 1 of 2: the teacher is tuned on the set")
    correction = _phase(
        folder / "correction",
        lambda out: train(teacher, files[0], recipe.correction, out, work=folder / "work", **common),
    )
    log.info("phase 2 of 2: distillation from it")
    better = _checkpoint_of(correction)
    student = _phase(
        folder / "student",
        lambda out: train(
            checkpoint, files[0], recipe.distillation(), out, work=folder / "work", teacher=better, **common
        ),
    )
    return correction, student


def _continued(
    checkpoint: Checkpoint,
    files: list[Path],
    recipe: Continual,
    folder: Path,
    teacher: Checkpoint | None,
    common: dict[str, Any],
) -> tuple[Tuned, Tuned]:
    """Tune on the first set, then on the second with a part of the first, some blocks frozen."""
    log.info("phase 1 of 2: the first set")
    first = _phase(
        folder / "first",
        lambda out: train(
            checkpoint, files[0], recipe.first, out, work=folder / "work", teacher=teacher, **common
        ),
    )
    middle = _checkpoint_of(first)
    second = recipe.second
    frozen = {*recipe.freeze.blocks, *most_changed(checkpoint, middle, recipe.freeze.most_changed)}
    if frozen:
        moving = tuple(block for block in range(middle.blocks) if block not in frozen)
        second = second.model_copy(
            update={"trainable": second.trainable.model_copy(update={"blocks": moving})}
        )
        log.info("blocks %s are frozen in the second phase", sorted(frozen))
    mixed = _mixed(middle, files, recipe, folder)
    log.info("phase 2 of 2: the second set, and what is replayed of the first")
    last = _phase(
        folder / "second",
        lambda out: train(
            middle, mixed, second, out, work=folder / "work", teacher=teacher, mixed_from=files, **common
        ),
    )
    return first, last


def _mixed(model: Checkpoint, files: list[Path], recipe: Continual, folder: Path) -> Path:
    """Write the second phase's rows: its set, and replayed examples among them."""
    rows = read_rows(files[1], recipe.second)
    share = recipe.replay.share
    count = round(len(rows) * share / (1 - share))
    old = read_rows(files[0], recipe.first)
    if recipe.replay.source == "generated":  # the same question twice would get the same answer twice
        old = list({(row["instruction"], row["input"]): row for row in old}.values())
    chooser = random.Random(recipe.second.seed)  # noqa: S311 - a shuffle, not a secret
    picked = chooser.sample(old, min(count, len(old)))
    if picked and recipe.replay.source == "generated":
        picked = _generated(model, picked, recipe, folder / "replay")
    column = recipe.second.column
    mixed = [row | {column: row["response"]} for row in [*rows, *picked]]
    path = folder / "mixed.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in mixed), encoding="utf-8")
    return path


def _generated(
    model: Checkpoint, rows: list[dict[str, str]], recipe: Continual, folder: Path
) -> list[dict[str, str]]:
    """Let the model of the first phase answer the instructions anew; resumed like any generation."""
    from regrow.records import Record
    from regrow.selfdata import SelfDataSpec, distill

    records = [
        Record(instruction=row["instruction"], input=row["input"], reference=row["response"], source="replay")
        for row in rows
    ]
    spec = SelfDataSpec(use_reference=False, max_new_tokens=recipe.replay.max_new_tokens)
    data = distill(model, records, "open", spec, folder)
    return [
        {name: str(row[name] or "") for name in ("instruction", "input", "response")} for row in data.rows()
    ]


def _checkpoint_of(tuned: Tuned) -> Checkpoint:
    if tuned.checkpoint is None:
        raise InputError("a phase with trainable prefix leaves no checkpoint for the next; take lora")
    return tuned.checkpoint


def _joined(recipe: TeacherCorrection | Continual, earlier: Tuned, last: Tuned, out: Path) -> Tuned:
    """Make the result of the last phase the chain's, with log, summary and adapter of the earlier one beside it."""
    names = ("correction", "distillation") if isinstance(recipe, TeacherCorrection) else ("first", "second")
    with atomic_folder(out) as scratch:
        for source, place in ((last, scratch), (earlier, scratch / "phases" / names[0])):
            for file in source.folder.rglob("*"):
                inside = file.relative_to(source.folder)
                if file.is_file() and (source is last or inside.parts[0] != "checkpoint"):
                    link_or_copy(file, place / inside)
        (scratch / "summary.json").unlink()  # a link: writing would change the phase's own
        phases = {name: tuned.summary for name, tuned in zip(names, (earlier, last), strict=True)}
        whole = {"method": recipe.method, "recipe": recipe.model_dump(mode="json"), "phases": phases}
        write_json(scratch / "summary.json", last.summary | whole)
    return Tuned.open(out)
