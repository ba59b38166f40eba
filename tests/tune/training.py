"""Training runs in this very process, for tests that compare many of them: no worker is started."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from regrow.checkpoint import Checkpoint
from regrow.files import read_json
from regrow.tune import data as examples_of
from regrow.tune import worker
from regrow.tune.job import Job, Launch
from regrow.tune.prepare import prepare
from regrow.tune.recipe import Sft, Training
from regrow.tune.tuned import read_log


@dataclass(frozen=True)
class Run:
    """What a run left in its job's folder."""

    job: Job

    @property
    def folder(self) -> Path:
        return self.job.folder

    @property
    def result(self) -> dict:
        return read_json(self.folder / "result.json")

    @property
    def losses(self) -> list[float]:
        return [entry["loss"] for entry in read_log(self.folder / "log.jsonl")]

    @property
    def merged(self) -> Checkpoint:
        return Checkpoint.open(self.folder / "merged")

    def weights(self) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        adapter = self.folder / "adapter" / "adapter_model.safetensors"
        return load_file(adapter if adapter.exists() else self.folder / "trained.safetensors")


def prepared(
    parent: Checkpoint,
    data: Path,
    folder: Path,
    recipe: Training | None = None,
    teacher: Checkpoint | None = None,
) -> Job:
    recipe = recipe or recipe_of()
    examples = examples_of.encode(examples_of.read_rows(data, recipe), parent.chat_tokenizer(), recipe)
    return prepare(parent, teacher, examples, recipe, folder, Launch())


def train(
    parent: Checkpoint, data: Path, recipe: Training, folder: Path, *, teacher: Checkpoint | None = None
) -> Run:
    job = prepared(parent, data, folder, recipe, teacher)
    worker.train(job)
    return Run(job)


def sentences(path: Path, *, column: str = "response", count: int = 60) -> Path:
    """Instructions and responses of mixed lengths, that a tiny model can learn."""
    rows = [{"instruction": f"Say {i % 5}.", column: "abc " * (1 + i % 5)} for i in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe_of(**settings) -> Sft:
    return Sft(**({"max_steps": 10, "batch_size": 8, "max_length": 256, "learning_rate": 1e-2} | settings))
