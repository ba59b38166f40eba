"""What a model costs when it runs: time, memory, bytes, floating-point operations.

Every model has a process of its own and all take turns in one run (unpruned, pruned, unpruned, pruned, ...),
for a machine is not as fast at noon as it was at nine: ratios are taken within rounds. Time is that of stock
transformers with a growing key-value cache, on random prompts, without tokenizer and sampling:

- prefill: the forward pass over the prompts, logits of their last tokens alone;
- decode: one greedy step after the other, each for the whole batch.

Memory is the highest reading while the model computes, loading left out: on CUDA what torch had allocated
(`max_memory_allocated`, weights, cache and activations); on a CPU the growth of the process's resident memory
over what it was with torch and transformers imported.

Floating-point operations are counted twice, by the formula of `regrow.evaluate.cost` and by torch's counter on a
forward pass. They agree to the last operation for dense attention. Where a sliding window is shorter than
the prompt torch counts more, for plain attention multiplies what the mask then hides, and of a mixture of
experts it counts only the experts that tokens went to.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError, RegrowError
from regrow.evaluate.cost import cost
from regrow.evaluate.spec import EvaluateSpec
from regrow.evaluate.turns import Job, Loaded, Turn

_Answer = TypeVar("_Answer", bound=BaseModel)


class Timing(BaseModel):
    """One batch size, round by round."""

    model_config = ConfigDict(frozen=True)

    batch_size: int = Field(description="prompts at one time")
    prefill: tuple[float, ...] = Field(description="seconds that the prompts took in each round")
    step: tuple[float, ...] = Field(
        description="seconds that a step, one token for each prompt, took on average"
    )


class Speed(BaseModel):
    """What a model costs on one machine, measured in turn with the others."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="what the model is called in tables")
    digest: str = Field(description="digest of the checkpoint")
    parameters: int = Field(description="stored weights")
    checkpoint_bytes: int = Field(description="all files of the checkpoint")
    memory_bytes: int | None = Field(description="highest while it computed; null where it cannot be told")
    flops_per_token: int = Field(description="by the formula, for a token of a prompt of prompt_tokens")
    flops_counted: float | None = Field(
        description="the same by torch's counter; null where the model cannot be built without its weights"
    )
    prompt_tokens: int
    new_tokens: int
    dtype: str
    device: str = Field(description="name of the GPU, or cpu")
    threads: int = Field(description="threads of torch on a CPU")
    timings: tuple[Timing, ...] = Field(description="one a batch size")

    def summary(self, base: "Speed | None" = None) -> dict[str, Any]:
        """Medians over rounds, with the quickest and the slowest; of ratios, too, if the unpruned one is given."""
        found: dict[str, Any] = {
            "name": self.name,
            "parameters": self.parameters,
            "checkpoint_bytes": self.checkpoint_bytes,
            "memory_bytes": self.memory_bytes,
            "flops_per_token": self.flops_per_token,
            "flops_counted": self.flops_counted,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "dtype": self.dtype,
            "device": self.device,
            "threads": self.threads,
            "batches": {},
        }
        for place, timing in enumerate(self.timings):
            size = timing.batch_size
            row = {
                "prefill_ms": _spread([1000 * s for s in timing.prefill]),
                "prefill_tokens_per_second": size * self.prompt_tokens / median(timing.prefill),
            }
            if timing.step:
                row["decode_ms"] = _spread([1000 * s for s in timing.step])
                row["decode_tokens_per_second"] = size / median(timing.step)
            if base is not None:
                other = base.timings[place]
                for kind in ("prefill", "step"):
                    if ratios := [
                        b / s for b, s in zip(getattr(other, kind), getattr(timing, kind), strict=True)
                    ]:
                        row[f"{'decode' if kind == 'step' else kind}_speedup"] = _spread(ratios)
            found["batches"][str(size)] = row
        return found


def _spread(values: list[float]) -> dict[str, float]:
    return {"value": median(values), "low": min(values), "high": max(values)}


def speed(models: Mapping[str, Checkpoint], spec: EvaluateSpec) -> list[Speed]:
    """Measure models in turns; all of them are in memory, each in a process of its own.

    Args:
        models: the models by name, the unpruned one first.
        spec: the section `speed`, and dtype.

    Raises:
        InputError: no section `speed`, or prompt and answer are longer than a model's context.
        RegrowError: a process came to an end; the message has its last line.
    """
    import torch

    asked = spec.speed
    if asked is None:
        raise InputError("evaluation.speed: is not given; say what is timed, for example speed: {}")
    for checkpoint in models.values():
        _fits(checkpoint, asked.prompt_tokens + asked.new_tokens)
    threads = torch.get_num_threads()
    turns: dict[tuple[str, int], list[Turn]] = {
        (name, size): [] for size in asked.batch_sizes for name in models
    }
    with ExitStack() as stack:
        runners = {name: stack.enter_context(_Process(name)) for name in models}
        facts = {}
        for name, checkpoint in models.items():
            job = Job(
                folder=checkpoint.folder,
                digest=checkpoint.digest,
                parameters=checkpoint.parameters,
                dtype=spec.dtype,
                prompt_tokens=asked.prompt_tokens,
                new_tokens=asked.new_tokens,
                threads=threads,
            )
            facts[name] = runners[name].ask(job.model_dump(mode="json"), Loaded)
        for number in range(asked.warmup + asked.rounds):
            for name, size in turns:
                turn = runners[name].ask(size, Turn)
                if number >= asked.warmup:
                    turns[name, size].append(turn)
    return [
        Speed(
            name=name,
            digest=checkpoint.digest,
            parameters=checkpoint.parameters,
            checkpoint_bytes=checkpoint.summary()["bytes"],
            memory_bytes=_highest([turn for size in asked.batch_sizes for turn in turns[name, size]]),
            flops_per_token=cost(checkpoint, asked.prompt_tokens).flops_per_token,
            flops_counted=facts[name].flops,
            prompt_tokens=asked.prompt_tokens,
            new_tokens=asked.new_tokens,
            dtype=facts[name].dtype,
            device=facts[name].device,
            threads=threads,
            timings=tuple(
                Timing(
                    batch_size=size,
                    prefill=tuple(turn.prefill for turn in turns[name, size]),
                    step=tuple(turn.decode / (asked.new_tokens - 1) for turn in turns[name, size])
                    if asked.new_tokens > 1
                    else (),
                )
                for size in asked.batch_sizes
            ),
        )
        for name, checkpoint in models.items()
    ]


def _fits(checkpoint: Checkpoint, tokens: int) -> None:
    config = checkpoint.config.get("text_config", checkpoint.config)
    longest = config.get("max_position_embeddings")
    if longest and tokens > longest:
        raise InputError(
            f"evaluation.speed: prompt and new tokens are {tokens}, more than the {longest} positions of "
            f"{checkpoint.folder}; choose fewer"
        )


def _highest(turns: list[Turn]) -> int | None:
    known = [turn.memory for turn in turns if turn.memory is not None]
    return max(known, default=None)


class _Process:
    """A model's own process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__

    def __enter__(self) -> "_Process":
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "regrow.evaluate.turns"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": path},
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, value: Any, kind: type[_Answer]) -> _Answer:
        """Send a line and wait for the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip().splitlines() or ["without a word"]
            raise RegrowError(f"evaluation.speed: the process of {self._name} ended ({said[-1]})")
        return kind.model_validate_json(line)
