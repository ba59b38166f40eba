"""What goes on beside the training steps: the log, whole checkpoints, divergence, a request to stop. Worker only."""

import json
import math
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from regrow.errors import RegrowError
from regrow.tune.job import EVENT, WHOLE

if TYPE_CHECKING:
    from regrow.tune.trainer import Trainer

_WINDOW = 10  # steps whose mean loss is looked at


def tell(event: dict[str, Any]) -> None:
    """Tell the parent process, which reads this one's output."""
    print(EVENT + json.dumps(event), flush=True)  # noqa: T201 - a pipe


class Record(TrainerCallback):  # type: ignore[misc]
    """Writes log.jsonl, tells the parent, and marks finished checkpoints."""

    def __init__(self, path: Path, earlier: list[dict[str, Any]], trainer: "Trainer") -> None:
        self._path, self._trainer = path, trainer
        self._before = earlier[-1]["seconds"] if earlier else 0.0
        self._last = (self._before, trainer.tokens)
        self._started = time.monotonic()
        if trainer.accelerator.is_main_process:
            path.write_text("".join(json.dumps(entry) + "\n" for entry in earlier), encoding="utf-8")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say how long the run is, and from where it goes on."""
        self._started = time.monotonic()
        if state.is_world_process_zero:
            tell({"steps": state.max_steps, "resumed_from": state.global_step})

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line, and tell the parent."""
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        seconds = self._before + time.monotonic() - self._started
        tokens = self._trainer.tokens
        then, had = self._last
        self._last = (seconds, tokens)
        entry = {
            "step": state.global_step,
            "loss": round(float(logs["loss"]), 6),
            "learning_rate": float(logs["learning_rate"]),
            "grad_norm": round(float(logs.get("grad_norm", math.nan)), 6),
            "tokens": tokens,
            "tokens_per_second": round((tokens - had) / max(seconds - then, 1e-9), 1),
            "seconds": round(seconds, 3),
            "memory_bytes": memory_in_use(),
        }
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
        tell(entry)

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Mark a checkpoint that every process has written its part of."""
        self._trainer.accelerator.wait_for_everyone()  # each process writes its own random state
        if state.is_world_process_zero:
            (Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / WHOLE).touch()
            tell({"saved": state.global_step})


class Divergence(TrainerCallback):  # type: ignore[misc]
    """Ends a run whose loss has left for good: worse than at the start, and far worse than at its best.

    Args:
        limit: how many times the lowest mean of 10 steps.
        earlier: losses of the steps before the checkpoint that is resumed.
        trainer: knows the rows of the last step.
    """

    def __init__(self, limit: float, earlier: Sequence[float], trainer: "Trainer") -> None:
        self._limit, self._trainer = limit, trainer
        self._losses: list[float] = []
        self._first = self._lowest = math.inf
        for loss in earlier:
            self._mean_with(loss)

    def _mean_with(self, loss: float) -> float:
        self._losses = [*self._losses[1 - _WINDOW :], loss]
        if len(self._losses) < _WINDOW:
            return 0.0
        mean = sum(self._losses) / _WINDOW
        self._first = mean if self._first == math.inf else self._first
        self._lowest = min(self._lowest, mean)
        return mean

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Compare the last steps with the best ones."""
        if not logs or "loss" not in logs:
            return
        mean = self._mean_with(float(logs["loss"]))
        if mean > self._limit * self._lowest and mean > self._first:
            raise RegrowError(
                f"step {state.global_step}: the loss diverges: {mean:.3g} over the last {_WINDOW} steps, after "
                f"{self._lowest:.3g} at its lowest (last batch: {self._trainer.batch}); lower recipe.learning_rate"
            )


class Stop(TrainerCallback):  # type: ignore[misc]
    """Saves and ends the run at the end of the step in which SIGTERM or SIGINT came, to any of its processes."""

    def __init__(self, trainer: "Trainer") -> None:
        self._trainer = trainer
        self.asked = self.done = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save and end if any process was asked to."""
        accelerator = self._trainer.accelerator
        asked = self.asked
        if accelerator.num_processes > 1:  # all of them must end at the same step
            asked = bool(accelerator.reduce(torch.tensor(int(asked), device=accelerator.device)).item())
        if asked and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = self.done = True


def memory_in_use() -> int:
    """Bytes of this process now: of its GPU where it has one, else resident."""
    if torch.cuda.is_available():
        return int(torch.cuda.memory_reserved())
    return int(psutil.Process().memory_info().rss)
