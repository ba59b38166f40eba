"""What a measurement of importance found, and its file."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from regrow.errors import InputError
from regrow.files import atomic_file, read_json

Matrix = list[list[float | None]]


class WidthScores(BaseModel):
    """Importance of units of width (Minitron, arXiv 2407.14679, section 2.2): the larger, the more it matters.

    For each text the mean over its tokens, then the square root of the sum of squares over texts.
    """

    model_config = ConfigDict(frozen=True)

    neurons: list[list[float]] = Field(
        description="[block][neuron]: magnitude of what goes into the MLP's last projection"
    )
    groups: list[list[float]] = Field(
        description="[block][KV group]: norm of what the group's heads put into attention's output projection"
    )
    channels_by_block: list[list[float]] = Field(
        description="[block][channel]: magnitude of what goes into attention and MLP, after their norms; summed"
    )

    def channels(self, blocks: Iterable[int]) -> list[float]:
        """Return the score of every channel: the sum over the given blocks."""
        rows = [self.channels_by_block[block] for block in blocks]
        return [math.fsum(column) for column in zip(*rows, strict=True)]


class SearchScores(BaseModel):
    """What happened to the model with blocks left out."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    perplexity: dict[int, list[float]] = Field(
        default_factory=dict, description="[size][start]: perplexity of the calibration texts"
    )
    task: dict[int, list[float]] = Field(
        default_factory=dict, description="[size][start]: score of the task; higher is better"
    )
    task_name: str | None = Field(None, description="the task")
    greedy: list[int] = Field(
        default_factory=list, description="blocks in the order in which greedy removal takes them"
    )
    greedy_perplexity: list[float] = Field(
        default_factory=list, description="perplexity of the calibration texts after each of them"
    )
    intact: float | None = Field(None, description="perplexity of the calibration texts with every block")


class LayerImportance(BaseModel):
    """What the passes over the calibration texts say about every block, run of blocks and unit of width."""

    model_config = ConfigDict(frozen=True)

    model_digest: str = Field(description="digest of the checkpoint that was measured")
    stack: str = Field("model.layers", description="what the checkpoint calls its blocks: stack.number")
    angular_distance: Matrix = Field(
        description="[size - 1][start]: distance in [0, 1] between the input of block `start` and the output "
        "of block `start + size - 1` at the last token; null where the run would pass the last block"
    )
    angular_distance_all_tokens: Matrix | None = Field(
        None, description="the same, averaged over all tokens; null if it was not asked for"
    )
    block_influence: list[float] = Field(
        description="1 - mean cosine(input, output) of each block, all tokens"
    )
    width: WidthScores | None = Field(
        None, description="scores of units of width; null if not asked for, or not known in this architecture"
    )
    search: SearchScores | None = Field(None, description="criteria that left blocks out; null if none")
    calibration_digest: str = Field(description="SHA-256 over the calibration texts")
    samples: int = Field(description="calibration texts")
    tokens: int = Field(description="calibration tokens, padding not counted")
    skip_first: int = Field(0, description="leading tokens of each text that means over tokens leave out")
    dtype: str = Field("", description="torch type of the forward pass")

    @property
    def blocks(self) -> int:
        """Number of blocks of the measured model."""
        return len(self.block_influence)

    def best(self, size: int) -> tuple[int, float]:
        """Return the start of the run of `size` blocks with the smallest angular distance, and that distance.

        Raises:
            InputError: `size` is not between 1 and the depth less one.
        """
        from regrow.importance.choose import choose_blocks

        choice = choose_blocks(self, self.blocks, "angular_distance", size)
        assert choice.score is not None
        return choice.removed[0], choice.score

    def to_json(self) -> str:
        """Return the measurement as JSON, one row of a matrix a line."""
        return _dump(self.model_dump(mode="json"), 0) + "\n"

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        with atomic_file(path) as scratch:
            scratch.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "LayerImportance":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing or not an importance file.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValueError as error:
            raise InputError(f"{path}: not an importance file ({str(error).splitlines()[0]})") from None


def _dump(value: Any, depth: int) -> str:
    """Lay out objects and lists of lists over lines, a list of numbers on one."""
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(value, dict) and value:
        rows = [f"{inner}{json.dumps(str(key))}: {_dump(one, depth + 1)}" for key, one in value.items()]
        return "{\n" + ",\n".join(rows) + "\n" + outer + "}"
    if isinstance(value, list) and value and isinstance(value[0], list):
        return "[\n" + ",\n".join(inner + json.dumps(row) for row in value) + "\n" + outer + "]"
    return json.dumps(value)
