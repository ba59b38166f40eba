"""From rows to tokens: what the worker trains on, in the order it trains on it.

Rows are tokenized once, by the parent process, so that every row that is cut, dropped or unusable is known
before a trainer starts, and the job's digest covers the very tokens. The order is drawn here too: batches
of similar length waste little on padding, and a resumed run finds the same batches.
"""

import json
import logging
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.errors import InputError
from regrow.files import atomic_file
from regrow.selfdata.prompts import student_tokens
from regrow.tune.recipe import Training

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
# Steps whose examples are sorted together: enough for similar lengths, few enough to stay mixed.
_POOL = 50


@dataclass
class Examples:
    """Tokenized training examples and what became of the rows.

    Attributes:
        tokens: token ids of each example, prompt and response.
        prompts: how many of them, at the front, have no loss: the prompt.
        rows: where each example stands in the data, counted from 1.
        truncated: examples that were cut at `max_length`.
        dropped: examples that were left out because of their length.
    """

    tokens: list[list[int]] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    truncated: int = 0
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def digest(self) -> str:
        """SHA-256 over the tokens and prompt lengths."""
        return sha256(json.dumps([self.tokens, self.prompts], separators=(",", ":")).encode()).hexdigest()

    def summary(self) -> dict[str, int]:
        """Counts for the record."""
        total = sum(map(len, self.tokens))
        return {
            "examples": len(self),
            "truncated": self.truncated,
            "dropped": self.dropped,
            "tokens_per_epoch": total,
            "response_tokens_per_epoch": total - sum(self.prompts),
        }


def loss_positions(prompt: int, length: int) -> range:
    """Return the positions whose next token has a loss.

    The logits at position p are compared with the token at p + 1, so the first such position is the last
    of the prompt. No token comes before the first, which therefore never has a loss.

    Args:
        prompt: tokens of the example without a loss.
        length: tokens of the example.
    """
    return range(max(prompt, 1) - 1, length - 1)


def data_file(data: Path) -> Path:
    """Return the file that holds the rows: `data` itself, or the records of a SelfData folder."""
    records = data / "records.parquet"
    return records if records.exists() else data


def read_rows(data: Path, recipe: Training) -> list[dict[str, str]]:
    """Return instruction, input and response of every row.

    Args:
        data: a SelfData folder, a folder saved by `datasets`, or a .parquet, .jsonl[.gz], .json, .csv file.
        recipe: says which column the response is.

    Raises:
        InputError: the file is missing, empty or malformed, lacks a column, or has an empty cell in one.
    """
    from regrow.source import read_rows as read

    file = data_file(data)
    rows = read(str(file))
    present = {name for row in rows for name in row}
    if missing := [name for name in ("instruction", recipe.column) if name not in present]:
        raise InputError(
            f"{file}: no column {' and no column '.join(missing)} (it has: {', '.join(sorted(present))}); "
            f"training with responses: {recipe.responses} needs instruction and {recipe.column}"
        )
    return [_row(file, number, row, recipe.column) for number, row in enumerate(rows, start=1)]


def _row(file: Path, number: int, row: dict[str, Any], column: str) -> dict[str, str]:
    for name in ("instruction", column):
        value = row.get(name)
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{file}: row {number}: {name} is empty or not text; fix or remove the row")
    extra = row.get("input")
    return {
        "instruction": row["instruction"],
        "input": extra if isinstance(extra, str) else "",
        "response": row[column],
    }


def encode(
    rows: Sequence[dict[str, str]], tokenizer: "PreTrainedTokenizerBase", recipe: Training
) -> Examples:
    """Tokenize rows as conversations of one user turn and the assistant's response.

    An example over `recipe.max_length` is cut at its end or left out; one whose prompt alone fills the
    length is always left out, since nothing of the response would remain. Both are counted and logged.

    Raises:
        InputError: no example fits, or the chat template has no place for the response.
    """
    examples = Examples()
    for number, row in enumerate(rows, start=1):
        whole, start = student_tokens(tokenizer, row)
        if len(whole) > recipe.max_length:
            if recipe.too_long == "drop" or start >= recipe.max_length:
                examples.dropped += 1
                continue
            examples.truncated += 1
            whole = whole[: recipe.max_length]
        examples.tokens.append(whole)
        examples.prompts.append(0 if recipe.loss_on == "all" else start)
        examples.rows.append(number)
    if not examples.tokens:
        raise InputError(f"recipe.max_length: no example fits in {recipe.max_length} tokens; raise it")
    if examples.truncated or examples.dropped:
        log.warning(
            "%d of %d examples are longer than max_length=%d tokens: %d cut, %d left out",
            examples.truncated + examples.dropped, len(rows), recipe.max_length,
            examples.truncated, examples.dropped,
        )  # fmt: skip
    return examples


def order(lengths: Sequence[int], recipe: Training) -> list[int]:
    """Return which example is trained on when, for the whole run: `batch_size` of them for each step.

    Every epoch is a fresh permutation, cut into steps of similar length that come in random order: forward
    passes of similar lengths waste little on padding. Examples that do not fill a step of their epoch wait for the
    next one, and the last step of the run is filled from another epoch: no step is smaller than the others.
    How a step is divided among forward passes and processes has no say in which examples it has.

    Args:
        lengths: tokens of each example.
        recipe: batch size, budget and seed.
    """
    size = recipe.batch_size
    steps = recipe.max_steps or math.ceil(recipe.epochs * len(lengths) / size)
    chooser = random.Random(recipe.seed)  # noqa: S311 - a shuffle, not a secret
    result: list[int] = []
    left: list[int] = []
    tokens = 0
    while True:
        pool = list(range(len(lengths)))
        chooser.shuffle(pool)
        groups = []
        for start in range(0, len(pool), size * _POOL):
            alike = sorted(pool[start : start + size * _POOL], key=lambda i: (-lengths[i], i))
            groups += [alike[i : i + size] for i in range(0, len(alike), size)]
        chooser.shuffle(groups)
        # An incomplete group waits for the examples that the next epoch begins with.
        whole = [group for group in groups if len(group) == size]
        left += [i for group in groups if len(group) < size for i in group]
        while len(left) >= size:
            whole.append(left[:size])
            left = left[size:]
        for group in whole:
            result += group
            tokens += sum(lengths[i] for i in group)
            if tokens >= recipe.max_tokens if recipe.max_tokens else len(result) >= steps * size:
                return result


def write_examples(examples: Examples, path: Path) -> None:
    """Write examples for the worker, atomically: one JSON list `[row, prompt length, token ids]` a line."""
    with atomic_file(path) as scratch, scratch.open("w", encoding="utf-8") as stream:
        for row, prompt, tokens in zip(examples.rows, examples.prompts, examples.tokens, strict=True):
            stream.write(json.dumps([row, prompt, tokens], separators=(",", ":")) + "\n")


def load_examples(path: Path) -> Examples:
    """Read what `write_examples` wrote."""
    examples = Examples()
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            row, prompt, tokens = json.loads(line)
            examples.rows.append(row)
            examples.prompts.append(prompt)
            examples.tokens.append(tokens)
    return examples
