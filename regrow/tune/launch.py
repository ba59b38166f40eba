"""The parent's side of a fine-tuning run: check, start the worker, follow it, collect the result.

The worker is a process of its own, started by accelerate: its memory is gone when it ends, several GPUs
need several processes anyway, and a cluster can start the same command. They talk through files in the
job's folder, which is named after the job's digest: a run that was killed finds its last checkpoint there,
a run with any other setting finds nothing.
"""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from regrow.checkpoint import Checkpoint
from regrow.device import compute_dtype, device
from regrow.errors import InputError, RegrowError
from regrow.files import atomic_folder, full_disk_is_clear, link_or_copy, read_json, write_json
from regrow.tune import data as examples_of
from regrow.tune.job import EVENT, Job, accelerate_config, cpu_threads, library_versions
from regrow.tune.recipe import Recipe
from regrow.tune.tuned import Tuned

log = logging.getLogger(__name__)
_GRACE = 10.0  # seconds between asking a worker to end and killing it
_OUTPUT_KEPT = 40  # lines of a worker's output that are kept for the message when it fails


def tune(checkpoint: Checkpoint, data: Path, recipe: Recipe, out: Path, *, work: Path | None = None) -> Tuned:
    """Train an adapter on a dataset and merge it into the model.

    A run that was interrupted continues from its last checkpoint when it is asked for again with the same
    model, data, recipe, libraries and `work`, and ends with the same weights as an unbroken one.

    Args:
        checkpoint: the model to tune (the pruned one); needs a chat template.
        data: a SelfData folder, or a file with the columns instruction and response (or reference).
        recipe: method, adapter, optimiser and budget.
        out: folder that appears when all is done: checkpoint/, adapter/, log.jsonl, summary.json.
        work: folder for the unfinished run; a hidden sibling of `out` if not given.

    Raises:
        InputError: `out` exists, the data cannot be used, the model has no chat template.
        RegrowError: training failed (the message is the worker's), or the disk is full.
    """
    if out.exists():
        raise InputError(f"{out}: already exists; name another --out folder or remove it")
    rows = examples_of.read_rows(data, recipe)
    examples = examples_of.encode(rows, checkpoint.chat_tokenizer(), recipe)
    work = (work or out.parent / f".{out.name}.work").absolute()
    job = _job(checkpoint, examples.digest, recipe, work)
    job.folder.mkdir(parents=True, exist_ok=True)
    with full_disk_is_clear(job.folder):
        examples_of.write_examples(examples, job.folder / "examples.jsonl")
        write_json(job.folder / "job.json", job.model_dump(mode="json"))
        (job.folder / "accelerate.yaml").write_text(yaml.safe_dump(accelerate_config(job)), encoding="utf-8")
    started = time.monotonic()
    if not (job.folder / "result.json").exists():
        _run(job)
    result = read_json(job.folder / "result.json")
    with atomic_folder(out) as scratch:
        digest = _collect(job, scratch)
        summary = {
            "method": recipe.method,
            "job": job.digest,
            "parent": checkpoint.digest,
            "checkpoint": digest,
            "data": examples.digest,
            **examples.summary(),
            **result,
            "wall_seconds": round(time.monotonic() - started, 2),
            "recipe": recipe.model_dump(mode="json"),
            "versions": job.versions,
        }
        write_json(scratch / "summary.json", summary)
    shutil.rmtree(job.folder, ignore_errors=True)
    with suppress(OSError):
        work.rmdir()  # only when no other job left its folder in it
    return Tuned.open(out)


def _job(checkpoint: Checkpoint, data: str, recipe: Recipe, work: Path) -> Job:
    import torch

    where = device()
    stored = checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype") or "float32"
    wanted = stored if recipe.dtype == "auto" else recipe.dtype
    chosen = (
        compute_dtype(getattr(torch, wanted), where) if recipe.dtype == "auto" else getattr(torch, wanted)
    )
    if chosen == torch.float16:
        chosen = torch.float32  # float16 training needs loss scaling; the range of float32 does not
    job = Job(
        folder=work,
        checkpoint=checkpoint.folder,
        parent=checkpoint.digest,
        data=data,
        recipe=recipe,
        dtype=str(chosen).removeprefix("torch."),
        device=where,
        processes=torch.cuda.device_count() if where == "cuda" else 1,
        threads=cpu_threads(),
        owner=os.getpid(),
        versions=library_versions(),
    )
    return job.model_copy(update={"folder": work / job.digest[:16]})


def _run(job: Job) -> None:
    """Start the worker and follow it to its end."""
    (job.folder / "error.json").unlink(missing_ok=True)
    command = [
        sys.executable, "-m", "accelerate.commands.launch",
        "--config_file", str(job.folder / "accelerate.yaml"),
        "--num_processes", str(job.processes),
        "--num_cpu_threads_per_process", str(job.threads),
        *(["--main_process_port", "0"] if job.processes > 1 else []),
        "-m", "regrow.tune.worker", "--job", str(job.folder / "job.json"),
    ]  # fmt: skip
    log.info("tuning on %s in %s, job %s", job.device, job.dtype, job.digest[:16])
    tail: list[str] = []
    # A session of its own: the whole group can be ended at once, and Ctrl-C reaches it only through us.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_environment(),
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        with tqdm(desc="tune", unit="step", file=sys.stderr, dynamic_ncols=True) as bar:
            for line in process.stdout:
                if line.startswith(EVENT):
                    _show(bar, json.loads(line.removeprefix(EVENT)))
                elif line.strip():
                    log.debug("worker: %s", line.rstrip())
                    tail = [*tail[1 - _OUTPUT_KEPT :], line.rstrip()]
        status = process.wait()
    finally:
        _end(process)
    if status or not (job.folder / "result.json").exists():
        raise _failure(job, status, tail)


def _environment() -> dict[str, str]:
    # The worker imports this very package, wherever the caller found it; nothing in it reaches for the net.
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
    }


def _show(bar: "tqdm[Any]", event: dict[str, Any]) -> None:
    if "steps" in event:
        bar.total, bar.initial, bar.n = event["steps"], event["resumed_from"], event["resumed_from"]
        bar.refresh()
    elif "step" in event:
        bar.set_postfix_str(
            f"loss {event['loss']:.3f}, {event['tokens_per_second']:.0f} tokens/s", refresh=False
        )
        bar.update(event["step"] - bar.n)
    elif "stage" in event:
        bar.set_description(event["stage"])


def _end(process: "subprocess.Popen[str]") -> None:
    """End the worker's process group, whether or not its leader has ended."""
    for number, wait in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
        try:
            os.killpg(process.pid, number)
        except (ProcessLookupError, PermissionError):
            break
        if process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(wait)
    if process.stdout:
        process.stdout.close()


def _failure(job: Job, status: int, tail: list[str]) -> RegrowError:
    if (job.folder / "error.json").exists():
        error = read_json(job.folder / "error.json")
        log.debug("worker failed:\n%s", error["trace"])
        kind = InputError if error["input"] else RegrowError
        return kind(f"tuning failed: {error['message']}")
    log.error("the worker's last words:\n%s", "\n".join(tail))
    # accelerate stands between us and the worker, and tells in words how it ended.
    if status in (-9, 137) or (tail and "SIGKILL" in tail[-1]):
        return RegrowError(
            "tuning failed: the worker was killed, most likely for want of memory; lower recipe.batch_size or "
            "recipe.max_length, and start again to continue from the last checkpoint"
        )
    last = f": {tail[-1]}" if tail else ""
    return RegrowError(f"tuning failed: the worker ended with status {status}{last}")


def _collect(job: Job, scratch: Path) -> str:
    """Give the result what the worker made, and return the merged model's digest.

    Links, not moves: a run killed here still finds its finished work.
    """
    for name, target in (("merged", "checkpoint"), ("adapter", "adapter")):
        for file in (job.folder / name).rglob("*"):
            if file.is_file():
                link_or_copy(file, scratch / target / file.relative_to(job.folder / name))
    link_or_copy(job.folder / "log.jsonl", scratch / "log.jsonl")
    return Checkpoint.open(scratch / "checkpoint").digest
