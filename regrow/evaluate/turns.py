"""One model in a process of its own, that is timed whenever it is told to (`regrow.evaluate.speed`).

    python -m regrow.evaluate.turns

Reads one JSON value a line from standard input and answers each with one on standard output: first the job
(what was loaded), then a batch size a line (its times, in seconds). Between them it waits and computes
nothing, so models can take turns on one machine.
"""

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from regrow.evaluate.flops import counted_flops


class Job(BaseModel):
    """What a process loads and runs."""

    model_config = ConfigDict(frozen=True)

    folder: Path = Field(description="the checkpoint")
    digest: str = Field(description="its digest")
    parameters: int = Field(description="its stored weights")
    dtype: str = Field(description="torch type of the computation, or auto")
    prompt_tokens: int = Field(description="tokens of a prompt")
    new_tokens: int = Field(description="tokens after it")
    threads: int = Field(description="threads that torch computes with on a CPU")


class Loaded(BaseModel):
    """What a process says when its model is there."""

    dtype: str
    device: str
    flops: float | None = Field(description="operations per token of a prompt, counted by torch")


class Turn(BaseModel):
    """One batch, timed."""

    prefill: float = Field(description="seconds for the prompts")
    decode: float = Field(description="seconds for all new tokens but the first, which the prompts give")
    memory: int | None = Field(description="bytes at the highest so far; null where the system does not say")


class _Runner:
    def __init__(self, job: Job) -> None:
        import torch

        from regrow.checkpoint import Checkpoint

        torch.set_num_threads(job.threads)
        checkpoint = Checkpoint(folder=job.folder, digest=job.digest, parameters=job.parameters)
        # Besides counting, this imports all that the model is made of, which is not the model's memory.
        self._flops = counted_flops(checkpoint, job.prompt_tokens)
        torch.ones(64, 64) @ torch.ones(64, 64)
        gc.collect()
        self._before = _resident("VmRSS")
        self._job, self._model = job, checkpoint.load(dtype=job.dtype)
        self._cuda = self._model.device.type == "cuda"
        self._last = {"logits_to_keep": 1} if self._model._supports_logits_to_keep() else {}
        _forget_high_water(self._cuda)

    def loaded(self) -> Loaded:
        import torch

        return Loaded(
            dtype=str(self._model.dtype).removeprefix("torch."),
            device=torch.cuda.get_device_name() if self._cuda else "cpu",
            flops=self._flops,
        )

    def turn(self, batch_size: int) -> Turn:
        """Read random prompts, then generate greedily with stock transformers and its growing cache."""
        import torch

        size = self._model.config.get_text_config().vocab_size
        shape = (batch_size, self._job.prompt_tokens)
        ids = torch.randint(size, shape, generator=torch.Generator().manual_seed(0)).to(self._model.device)
        output: Any = None

        def step(tokens: Any, cache: Any) -> Any:
            return self._model(input_ids=tokens, past_key_values=cache, use_cache=True, **self._last)

        def prefill() -> None:
            nonlocal output
            output = step(ids, None)

        def decode() -> None:
            nonlocal output
            for _ in range(self._job.new_tokens - 1):
                output = step(output.logits[:, -1:].argmax(-1), output.past_key_values)

        with torch.inference_mode():
            return Turn(prefill=self._timed(prefill), decode=self._timed(decode), memory=self._memory())

    def _timed(self, work: Callable[[], None]) -> float:
        import torch

        if self._cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    def _memory(self) -> int | None:
        import torch

        if self._cuda:
            return int(torch.cuda.max_memory_allocated())
        high = _resident("VmHWM")
        return None if high is None or self._before is None else high - self._before


def _resident(kind: str) -> int | None:
    """Return resident memory of this process in bytes: VmRSS now, VmHWM at the highest (Linux only)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    rows = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
    return int(rows[kind].split()[0]) * 1024


def _forget_high_water(cuda: bool) -> None:
    """Let the peak begin anew: loading needs memory that computing does not."""
    if cuda:
        import torch

        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return  # no such file, or not ours to write: the peak is that of loading as well


def main() -> None:
    """Answer line by line until standard input ends."""
    # Libraries write to standard output, too; what they say goes to standard error.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(value: BaseModel) -> None:
        answers.write(value.model_dump_json() + "\n")
        answers.flush()

    # All processes do this at one time, before the first of them hears of its model.
    import transformers  # noqa: F401

    runner = _Runner(Job.model_validate_json(sys.stdin.readline()))
    answer(runner.loaded())
    for line in sys.stdin:
        answer(runner.turn(int(json.loads(line))))


if __name__ == "__main__":
    main()
