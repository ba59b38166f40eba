"""The result of a fine-tuning run, as a folder."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.files import read_json


class Tuned(BaseModel):
    """A tuned model with the adapter and the record of its training."""

    model_config = ConfigDict(frozen=True)

    folder: Path = Field(description="folder with checkpoint/, adapter/, log.jsonl and summary.json")
    checkpoint: Checkpoint | None = Field(
        description="the parent with what was trained in its weights; none for a prefix, which is an adapter alone"
    )
    log: list[dict[str, Any]] = Field(
        description="one entry a step: step, loss (nats per token), learning_rate, grad_norm, "
        "tokens (so far), tokens_per_second, seconds (so far), memory_bytes (of the first process)"
    )
    summary: dict[str, Any] = Field(description="counts of the data, settings, speed, losses")

    @classmethod
    def open(cls, folder: str | Path) -> "Tuned":
        """Open the folder that `regrow.tune.tune` wrote.

        Raises:
            InputError: a part of it is missing or damaged.
        """
        folder = Path(folder)
        summary = read_json(folder / "summary.json")
        checkpoint = Checkpoint.open(folder / "checkpoint") if summary.get("checkpoint") else None
        if checkpoint and checkpoint.digest != summary["checkpoint"]:
            raise InputError(
                f"{folder / 'checkpoint'}: its files are not those that were written; tune again"
            )
        return cls(
            folder=folder.absolute(),
            checkpoint=checkpoint,
            log=read_log(folder / "log.jsonl"),
            summary=summary,
        )


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a training log.

    Raises:
        InputError: the file is missing or not JSON lines.
    """
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON lines ({error})") from None
