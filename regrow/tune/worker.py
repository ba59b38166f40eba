"""The training process: `accelerate launch -m regrow.tune.worker --job job.json`.

It ends with result.json in the job's folder; with interrupted.json when it was asked to stop and has saved; or with
error.json and a status other than 0. Nothing of it knows who started it, or on how many machines.
"""

import argparse
import fcntl
import json
import logging
import os
import resource
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError, RegrowError
from regrow.files import read_json, write_json
from regrow.tune.data import Examples, load_examples, order
from regrow.tune.job import OWNER, Job, whole_checkpoints
from regrow.tune.recipe import Distill
from regrow.tune.tuned import read_log

if TYPE_CHECKING:
    from datasets import Dataset
    from trl import SFTConfig

    from regrow.tune.objective import Objective

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")  # CUDA, CPU
_LOCK_WAIT = 60.0  # seconds to wait for an orphan of an earlier run to end


def main() -> None:
    """Train the job that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", type=Path, required=True)
    job = Job.model_validate(read_json(parser.parse_args().job))
    job = job.model_copy(update={"folder": parser.parse_args().job.parent})
    rank = int(os.environ.get("RANK", "0"))
    if owner := os.environ.get(OWNER):
        _follow(int(owner))
    _quiet()
    try:
        lock = _lock(job.folder) if rank == 0 else None
        train(job)
        del lock
    except BaseException as error:
        if not isinstance(error, SystemExit):
            _report(job, error)
        sys.stdout.flush()
        os._exit(1)  # without waiting for the other processes, which wait for this one


def train(job: Job) -> None:
    """Train, save, merge into the parent, verify the merge, write result.json."""
    import torch

    from regrow.tune.batches import Collator
    from regrow.tune.callbacks import tell
    from regrow.tune.fuse import check_stored
    from regrow.tune.parameters import load_for_training, trained
    from regrow.tune.trainer import Trainer

    if job.device == "cpu":
        torch.set_num_threads(job.threads)
    rank = int(os.environ.get("RANK", "0"))
    tell({"worker": os.getpid(), "rank": rank})
    recipe = job.recipe
    parent = Checkpoint(folder=job.checkpoint, digest=job.parent, parameters=0)
    tokenizer = parent.chat_tokenizer()
    examples = load_examples(job.folder / "examples.jsonl")
    settings = _settings(job)  # sets up the process group, which the teacher's shards need
    done = whole_checkpoints(job.folder)
    reached = _agreed(job, done)
    objective = _objective(job, examples, settings)
    torch.manual_seed(recipe.seed)  # adapters are drawn when they are made
    model = load_for_training(
        parent, recipe.trainable, job.dtype, checkpointing=recipe.gradient_checkpointing
    )
    weights = trained(model)
    if not hasattr(model, "peft_config"):
        check_stored(parent, weights)
    counts = {
        "trainable_parameters": sum(weight.numel() for weight in weights.values()),
        "trained_tensors": len(weights),
    }
    del weights
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=_dataset(job, examples),
        data_collator=Collator(tokenizer.pad_token_id or 0, recipe.packing),
        processing_class=tokenizer,
        job=job,
        objective=objective,
        rows=examples.rows,
        depth=parent.blocks,
        earlier=_log_until(job.folder / "log.jsonl", reached),
    )
    trainer.train(resume_from_checkpoint=str(done[reached]) if reached else None)
    if trainer.stop.done:
        if rank == 0:
            write_json(job.folder / "interrupted.json", {"step": trainer.state.global_step})
        return
    # ru_maxrss counts KiB on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gpu_peak = torch.cuda.max_memory_allocated() if job.device == "cuda" else 0
    kept = _save(trainer, job)
    if rank != 0:
        return
    del trainer, model, objective
    tell({"stage": "merge"})
    merged = _merge(job, parent, kept, examples) if recipe.trainable.mergeable else {}
    entries = read_log(job.folder / "log.jsonl")
    write_json(
        job.folder / "result.json",
        _facts(entries)
        | counts
        | {
            "dtype": job.dtype,
            "device": job.device,
            "processes": job.processes,
            "resumed_from": reached,
            "peak_bytes": peak,
            "gpu_peak_bytes": gpu_peak,
        }
        | merged,
    )


def _agreed(job: Job, done: Mapping[int, Path]) -> int:
    """Return the step to go on from, which is the same for all processes, as all else that decides the weights is.

    Otherwise they would wait for each other without end, or leave a model that nobody meant.

    Raises:
        InputError: they do not agree.
    """
    from accelerate.utils import gather_object

    fields = {"micro_batch_size", "dtype", "device", "sharded", "threads", "versions"}
    mine = job.model_dump(mode="json", include=fields) | {
        "job": job.digest,
        "step reached": max(done, default=0),
    }
    first, *others = gather_object([mine])
    for number, other in enumerate(others, start=1):
        odd = [
            f"{name} is {first[name]} in process 0 and {value} in process {number}"
            for name, value in other.items()
            if value != first[name]
        ]
        if odd:
            raise InputError(
                f"the processes of this run do not agree: {', '.join(odd)}; give all machines one --work folder that "
                "they share, and say in the recipe what they decide differently (micro_batch_size, dtype)"
            )
    return int(first["step reached"])


def _objective(job: Job, examples: Examples, settings: "SFTConfig") -> "Objective":
    from regrow.tune.objective import FromTeacher, FromTopK, NextToken

    recipe = job.recipe
    if not isinstance(recipe, Distill):
        return NextToken()
    assert job.teacher_checkpoint is not None and job.teacher is not None
    teacher = Checkpoint(folder=job.teacher_checkpoint, digest=job.teacher, parameters=0)
    if recipe.teacher == "top_k":
        return FromTopK(_written(job, teacher, examples, settings), recipe.temperature)
    return FromTeacher(
        teacher.load(dtype=job.dtype, device="cpu").to(settings.device),
        teacher.blocks,
        temperature=recipe.temperature,
        hidden_states=recipe.hidden_states,
        embeddings=recipe.embeddings,
    )


def _written(job: Job, teacher: Checkpoint, examples: Examples, settings: "SFTConfig") -> Any:
    """Write the teacher's log-probabilities, or what is missing of them, and open them."""
    from accelerate import PartialState

    from regrow.tune.callbacks import tell
    from regrow.tune.teacher import TopKLogits, write_top_k

    recipe, folder = job.recipe, job.folder / "teacher"
    assert isinstance(recipe, Distill)

    def progress(done: int, total: int) -> None:
        tell({"stage": "teacher", "done": done, "total": total})

    write_top_k(
        teacher, examples.tokens, examples.prompts, folder, k=recipe.top_k, temperature=recipe.temperature,
        dtype=job.dtype, device=str(settings.device), rank=settings.process_index, processes=settings.world_size,
        progress=progress if settings.process_index == 0 else None,
    )  # fmt: skip
    PartialState().wait_for_everyone()
    return TopKLogits.open(
        folder, teacher=teacher.digest, data=job.data, k=recipe.top_k, temperature=recipe.temperature
    )


def _facts(entries: list[dict[str, Any]]) -> dict[str, Any]:
    losses = [entry["loss"] for entry in entries]
    few = max(1, len(losses) // 10)
    last = entries[-1]
    return {
        "steps": last["step"],
        "tokens": last["tokens"],
        "seconds": last["seconds"],
        "tokens_per_second": round(last["tokens"] / max(last["seconds"], 1e-9), 1),
        "first_loss": round(sum(losses[:few]) / few, 5),
        "last_loss": round(sum(losses[-few:]) / few, 5),
    }


def _save(trainer: Any, job: Job) -> Path:
    """Write what was trained: an adapter's folder, or a file of weights; every process takes part."""
    from regrow.tune.parameters import save_trained

    model = trainer.accelerator.unwrap_model(trainer.model)
    adapter = hasattr(model, "peft_config")
    kept = job.folder / ("adapter" if adapter else "trained.safetensors")
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if job.sharded else None
    if not trainer.accelerator.is_main_process:
        return kept
    if not adapter:
        save_trained(model, kept, state)
        return kept
    config = model.peft_config["default"]
    config.base_model_name_or_path = f"sha256:{job.parent}"  # no path of this machine
    if isinstance(targets := getattr(config, "target_modules", None), set):
        config.target_modules = sorted(targets)  # a set has no order of its own
    model.save_pretrained(kept, state_dict=state)
    (kept / "README.md").unlink(missing_ok=True)  # an unfilled form
    return kept


def _merge(job: Job, parent: Checkpoint, kept: Path, examples: Examples) -> dict[str, float]:
    from regrow.tune.fuse import fuse, overlay, verify

    merged = job.folder / "merged"
    adapter = kept if kept.is_dir() else None
    if adapter:
        fuse(parent, adapter, merged, note=_note(job))
    else:
        overlay(parent, kept, merged, note=_note(job))
    return verify(
        parent, merged, adapter=adapter, trained=None if adapter else kept, tokens=examples.tokens,
        prompts=examples.prompts,
    )  # fmt: skip


def _dataset(job: Job, examples: Examples) -> "Dataset":
    from datasets import Dataset

    turns = order([len(ids) for ids in examples.tokens], job.recipe)
    rows = {"input_ids": examples.tokens, "prompt": examples.prompts, "index": list(range(len(examples)))}
    return Dataset.from_dict(rows).select(turns)


def _settings(job: Job) -> "SFTConfig":
    from trl import SFTConfig

    recipe = job.recipe
    return SFTConfig(
        output_dir=str(job.folder / "steps"),
        per_device_train_batch_size=job.micro_batch_size,
        gradient_accumulation_steps=job.accumulation,
        learning_rate=recipe.rate,
        lr_scheduler_type="constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule,
        warmup_steps=recipe.warmup_ratio,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        # The dataset already is the whole run, step after step, in its order, as labelled tokens.
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        packing=False,
        bf16=job.dtype == "bfloat16",
        fp16=False,
        use_cpu=job.device == "cpu",
        gradient_checkpointing=False,  # switched on when the model is loaded
        optim="adamw_torch_fused" if job.device == "cuda" else "adamw_torch",
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is no number must show
        save_strategy="steps",
        save_steps=recipe.save_every,
        save_total_limit=recipe.keep,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=job.device == "cuda",
        ddp_find_unused_parameters=False,
    )


def _log_until(path: Path, last: int) -> list[dict[str, Any]]:
    """Keep of an interrupted run's log what its checkpoint knows."""
    if not last or not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break  # the line that the kill cut short
    return [entry for entry in entries if entry["step"] <= last]


def _note(job: Job) -> str:
    recipe = job.recipe
    teacher = f"Teacher: sha256:{job.teacher}\n" if job.teacher else ""
    return (
        f"Parent: sha256:{job.parent}\n{teacher}"
        f"Training data (tokens): sha256:{job.data}\n"
        f"Method: {recipe.method}, responses: {recipe.responses}, trained: {recipe.trainable.kind}, "
        f"learning rate {recipe.rate:g}, seed {recipe.seed}\n"
    )


def _follow(owner: int) -> None:
    """End this process when the one that asked for the run is gone, however it went."""
    import psutil

    def gone() -> bool:
        # By number alone: start times move with the system's clock, and a number is not given anew so soon.
        try:
            return bool(psutil.Process(owner).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    def watch() -> None:
        while not gone():
            time.sleep(1.0)
        sys.stderr.write("the process that asked for this run is gone\n")
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _lock(folder: Path) -> IO[bytes]:
    """Hold the job's folder: two workers must never write into it."""
    stream = (folder / "lock").open("wb")
    patience = time.monotonic() + _LOCK_WAIT
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return stream
        except BlockingIOError:
            if time.monotonic() > patience:
                raise RegrowError(f"{folder}: another run is training this very job; wait for it") from None
            time.sleep(0.5)


def _quiet() -> None:
    """Leave the pipe to progress and to errors."""
    from datasets.utils.logging import disable_progress_bar
    from transformers.utils import logging as words

    warnings.simplefilter("ignore")
    words.set_verbosity_error()
    words.disable_progress_bar()
    disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    logging.getLogger("trl").setLevel(logging.ERROR)


def _report(job: Job, error: BaseException) -> None:
    """Leave the cause for the one who asked; of several processes that fail, the first one's."""
    if (job.folder / "error.json").exists():
        return
    text = str(error).strip()
    message = (
        text
        if isinstance(error, RegrowError)
        else f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
    )
    if memory := any(words in text for words in _NO_MEMORY):
        message += "; lower recipe.micro_batch_size or recipe.max_length"
    write_json(
        job.folder / "error.json",
        {
            "message": message,
            "input": isinstance(error, InputError),
            "memory": memory,
            "trace": "".join(traceback.format_exception(error)),
        },
    )


if __name__ == "__main__":
    main()
