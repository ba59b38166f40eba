"""The training process: `accelerate launch -m regrow.tune.worker --job job.json`.

It ends with result.json in the job's folder, or with error.json and a status other than 0.
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
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError, RegrowError
from regrow.files import read_json, write_json
from regrow.tune.data import load_examples, order
from regrow.tune.job import EVENT, Job
from regrow.tune.tuned import read_log

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PreTrainedModel
    from trl import SFTConfig

_LOCK_WAIT = 60.0  # seconds to wait for an orphan of an earlier run to end


def main() -> None:
    """Train the job that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--job", type=Path, required=True)
    job = Job.model_validate(read_json(parser.parse_args().job))
    first = os.environ.get("RANK", "0") == "0"
    _follow(job.owner)
    _quiet()
    try:
        lock = _lock(job.folder) if first else None
        train(job)
        del lock
    except BaseException as error:
        if first and not isinstance(error, SystemExit):
            _report(job, error)
        sys.exit(1)


def train(job: Job) -> None:
    """Train the adapter, save it, merge it into the parent, write result.json."""
    import torch

    from regrow.tune.fuse import check, fuse
    from regrow.tune.trainer import Trainer, checkpoints

    if job.device == "cpu":
        torch.set_num_threads(job.threads)
    first = os.environ.get("RANK", "0") == "0"
    parent = Checkpoint(folder=job.checkpoint, digest=job.parent, parameters=0)
    tokenizer = parent.chat_tokenizer()
    examples = load_examples(job.folder / "examples.jsonl")
    dataset = _dataset(job)
    model = _load(job)
    done = checkpoints(job.folder / "steps")
    resume = done[-1] if done else None
    trainer = Trainer(
        model=model,
        args=_settings(job),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=_lora(job),
        job=job,
        earlier=_log_until(job.folder / "log.jsonl", resume),
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    # ru_maxrss counts KiB on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    gpu_peak = torch.cuda.max_memory_allocated() if job.device == "cuda" else 0
    if not first:
        return
    _say({"stage": "merge"})
    _save(trainer, job)
    del trainer, model
    fuse(parent, job.folder / "adapter", job.folder / "merged", note=_note(job))
    difference = check(job, job.folder / "adapter", job.folder / "merged", examples)
    entries = read_log(job.folder / "log.jsonl")
    write_json(
        job.folder / "result.json",
        _facts(entries)
        | {
            "trainable_parameters": trainable,
            "dtype": job.dtype,
            "device": job.device,
            "processes": job.processes,
            "resumed_from": int(resume.name.split("-")[-1]) if resume else 0,
            "peak_bytes": peak,
            "gpu_peak_bytes": gpu_peak,
            "merge_difference": difference,
        },
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


def _save(trainer: Any, job: Job) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    config = model.peft_config["default"]
    config.base_model_name_or_path = f"sha256:{job.parent}"  # no path of this machine
    config.target_modules = sorted(config.target_modules)  # a set has no order of its own
    model.save_pretrained(job.folder / "adapter")
    (job.folder / "adapter" / "README.md").unlink(missing_ok=True)  # an unfilled form


def _dataset(job: Job) -> "Dataset":
    from datasets import Dataset

    examples = load_examples(job.folder / "examples.jsonl")
    turns = order([len(ids) for ids in examples.tokens], job.recipe, job.processes)
    rows = {
        "input_ids": examples.tokens,
        # TRL turns this into labels: loss on the response alone.
        "completion_mask": [
            [0] * prompt + [1] * (len(ids) - prompt)
            for ids, prompt in zip(examples.tokens, examples.prompts, strict=True)
        ],
    }
    return Dataset.from_dict(rows).select(turns)


def _load(job: Job) -> "PreTrainedModel":
    parent = Checkpoint(folder=job.checkpoint, digest=job.parent, parameters=0)
    # The trainer places the model: each process has a device of its own.
    return parent.load(dtype=job.dtype, device="cpu").train()


def _lora(job: Job) -> "LoraConfig":
    from peft import LoraConfig

    lora = job.recipe.lora
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
    )


def _settings(job: Job) -> "SFTConfig":
    from trl import SFTConfig

    recipe = job.recipe
    bf16 = job.dtype == "bfloat16"
    return SFTConfig(
        output_dir=str(job.folder / "steps"),
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="constant_with_warmup" if recipe.schedule == "constant" else recipe.schedule,
        warmup_steps=recipe.warmup_ratio,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        # The dataset already is the whole run, epoch after epoch, in its order.
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        max_length=None,
        completion_only_loss=True,
        packing=False,
        bf16=bf16,
        fp16=False,
        use_cpu=job.device == "cpu",
        gradient_checkpointing=False,
        optim="adamw_torch",
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # a loss that is no number must show
        save_strategy="steps",
        save_steps=recipe.save_every,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=job.device == "cuda",
        ddp_find_unused_parameters=False,
    )


def _log_until(path: Path, resume: Path | None) -> list[dict[str, Any]]:
    """Keep of an interrupted run's log what its checkpoint knows."""
    if resume is None or not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break  # the line that the kill cut short
    last = int(resume.name.split("-")[-1])
    return [entry for entry in entries if entry["step"] <= last]


def _note(job: Job) -> str:
    recipe = job.recipe
    return (
        f"Parent: sha256:{job.parent}\n"
        f"Training data (tokens): sha256:{job.data}\n"
        f"Method: {recipe.method}, responses: {recipe.responses}, LoRA r {recipe.lora.r}, "
        f"alpha {recipe.lora.alpha:g}, learning rate {recipe.learning_rate:g}, seed {recipe.seed}\n"
    )


def _say(event: dict[str, Any]) -> None:
    print(EVENT + json.dumps(event), flush=True)  # noqa: T201 - the parent reads this pipe


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
    text = str(error).strip()
    message = (
        text
        if isinstance(error, RegrowError)
        else f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
    )
    if "out of memory" in text:
        message += "; lower recipe.batch_size or recipe.max_length"
    write_json(
        job.folder / "error.json",
        {
            "message": message,
            "input": isinstance(error, InputError),
            "trace": "".join(traceback.format_exception(error)),
        },
    )


if __name__ == "__main__":
    main()
