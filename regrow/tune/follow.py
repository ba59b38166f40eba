"""Starting the training processes, following them to their end, and telling how they ended."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from regrow.errors import InputError, InterruptedRunError, RegrowError
from regrow.files import read_json
from regrow.tune.job import EVENT, OWNER, Job, Launch, accelerate_config, whole_checkpoints

log = logging.getLogger(__name__)
Follower = Callable[[dict[str, Any]], None]
_GRACE = 60.0  # seconds for a worker to end its step and save, after it was asked to end
_OUTPUT_KEPT = 40  # lines of a worker's output that are kept for the message when it fails


class OutOfMemoryError(RegrowError):
    """A training process had not enough memory."""


def run(job: Job, launch: Launch, follower: Follower | None = None) -> None:
    """Start the processes of this machine as a process group of their own and follow them to their end.

    Args:
        job: what to do; its folder holds the examples and the job file.
        launch: where the processes are.
        follower: is handed every entry of the log as it is made.

    Raises:
        InterruptedRunError: SIGTERM came (a pod is being evicted); the run has saved and can be continued.
        OutOfMemoryError: the memory did not suffice.
        RegrowError: training failed; the message is the worker's.
    """
    for name in ("error.json", "interrupted.json"):
        (job.folder / name).unlink(missing_ok=True)
    if launch.main_port and launch.node_rank == 0:
        _check_port(launch)
    config = job.folder / f"accelerate-{launch.node_rank}.yaml"
    config.write_text(yaml.safe_dump(accelerate_config(job, launch)), encoding="utf-8")
    command = [
        sys.executable, "-m", "accelerate.commands.launch",
        "--config_file", str(config),
        "--num_processes", str(job.processes),
        "--num_cpu_threads_per_process", str(job.threads),
        *(["--main_process_port", "0"] if job.processes > 1 and not launch.main_port else []),
        "-m", "regrow.tune.worker", "--job", str(job.folder / "job.json"),
    ]  # fmt: skip
    log.info("tuning on %s in %s, job %s", job.device, job.dtype, job.digest[:16])
    # A session of its own: the whole group can be ended at once, and Ctrl-C reaches it only through us.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_environment(job),
        start_new_session=True,
    )
    group = _Group(process)
    try:
        with _terminated_by(group.ask_to_end) as terminated:
            tail = _read(group, follower)
            status = process.wait()
    except KeyboardInterrupt:
        group.ask_to_end()
        group.wait(_GRACE)
        raise
    finally:
        group.kill()
    if (job.folder / "interrupted.json").exists() or terminated:
        raise InterruptedRunError(_where(job))
    if status or (not (job.folder / "result.json").exists() and launch.node_rank == 0):
        raise _failure(job, status, tail)


class _Group:
    """The launcher and the workers that it has started."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.workers: list[int] = []

    def ask_to_end(self) -> None:
        """Ask the workers to save and end; the launcher, which would not wait for them, is not told."""
        for worker in self.workers or [self.process.pid]:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(worker, signal.SIGTERM)

    def wait(self, seconds: float) -> None:
        """Give them time, and keep reading what they say: a full pipe would hold them up."""
        assert self.process.stdout is not None
        reader = threading.Thread(target=self.process.stdout.read, daemon=True)
        reader.start()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def kill(self) -> None:
        """End whatever is left of the process group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()


def _read(group: _Group, follower: Follower | None) -> list[str]:
    """Show progress until the workers end; return the last lines of what else they said."""
    tail: list[str] = []
    assert group.process.stdout is not None
    with tqdm(desc="tune", unit="step", file=sys.stderr, dynamic_ncols=True) as bar:
        for line in group.process.stdout:
            if line.startswith(EVENT):
                event = json.loads(line.removeprefix(EVENT))
                if "worker" in event:
                    group.workers.append(event["worker"])
                _show(bar, event)
                if follower and "loss" in event:
                    follower(event)
            elif line.strip():
                log.debug("worker: %s", line.rstrip())
                tail = [*tail[1 - _OUTPUT_KEPT :], line.rstrip()]
    return tail


@contextmanager
def _terminated_by(ask: Callable[[], None]) -> Iterator[list[int]]:
    """While a run goes on, hand SIGTERM on instead of dying of it; yields a list that then is not empty."""
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        ask()

    if threading.current_thread() is not threading.main_thread():
        yield received  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_port(launch: Launch) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", launch.main_port or 0))
        except OSError:
            raise InputError(
                f"main_port {launch.main_port}: is in use on this machine; name another port, the same on all machines"
            ) from None


def _environment(job: Job) -> dict[str, str]:
    # The worker imports this very package, wherever the caller found it; nothing in it reaches for the net.
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        OWNER: str(os.getpid()),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive"),
        **({"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""} if job.device == "cpu" else {}),
    }


def _show(bar: "tqdm[Any]", event: dict[str, Any]) -> None:
    if "steps" in event:
        bar.set_description("tune")
        bar.unit = "step"
        bar.total, bar.initial, bar.n = event["steps"], event["resumed_from"], event["resumed_from"]
        bar.refresh()
    elif "step" in event:
        bar.set_postfix_str(
            f"loss {event['loss']:.3f}, {event['tokens_per_second']:.0f} tokens/s", refresh=False
        )
        bar.update(event["step"] - bar.n)
    elif "stage" in event:
        bar.set_description(event["stage"])
        if "total" in event:
            bar.unit = "example"
            bar.total, bar.n = event["total"], event["done"]
            bar.refresh()


def _where(job: Job) -> str:
    saved = whole_checkpoints(job.folder)
    if not saved:
        return "tuning was stopped before anything was saved; the same command starts it again"
    return f"tuning was stopped, and is saved up to step {max(saved)}; the same command goes on from there"


def _failure(job: Job, status: int, tail: list[str]) -> RegrowError:
    if (job.folder / "error.json").exists():
        error = read_json(job.folder / "error.json")
        log.debug("worker failed:\n%s", error["trace"])
        kind = InputError if error["input"] else OutOfMemoryError if error["memory"] else RegrowError
        return kind(f"tuning failed: {error['message']}")
    log.error("the worker's last words:\n%s", "\n".join(tail))
    # accelerate stands between us and the worker, and tells in words how it ended.
    if status in (-9, 137) or any("SIGKILL" in line or "Signal 9" in line for line in tail[-20:]):
        return OutOfMemoryError(
            "tuning failed: the worker was killed, most likely for want of memory; lower recipe.micro_batch_size or "
            "recipe.max_length, and start again to continue from the last checkpoint"
        )
    last = f": {tail[-1]}" if tail else ""
    return RegrowError(f"tuning failed: the worker ended with status {status}{last}")
