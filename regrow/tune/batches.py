"""Examples put together for one forward pass: padded, or packed end to end."""

from dataclasses import dataclass
from typing import Any

import torch

from regrow.tune.data import loss_positions

IGNORED = -100  # the label of a token without a loss


@dataclass(frozen=True)
class Collator:
    """Makes the inputs of a forward pass from examples.

    Args:
        pad: token id that fills up shorter rows.
        packing: lay the examples end to end in one row. Positions start anew with each of them, by which
            transformers' masks keep them apart.
    """

    pad: int
    packing: bool

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return input_ids and labels, (rows, length), the examples' numbers, and attention_mask or position_ids.

        Args:
            examples: input_ids, prompt (tokens without a loss) and index (number among all examples).
        """
        ids = [torch.tensor(one["input_ids"]) for one in examples]
        labels = [_labels(row, one["prompt"]) for row, one in zip(ids, examples, strict=True)]
        index = torch.tensor([one["index"] for one in examples])
        if self.packing:
            return {
                "input_ids": torch.cat(ids)[None],
                "position_ids": torch.cat([torch.arange(len(row)) for row in ids])[None],
                "labels": torch.cat(labels)[None],
                "index": index,
            }
        return {
            "input_ids": padded(ids, self.pad),
            "attention_mask": padded([torch.ones_like(row) for row in ids], 0),
            "labels": padded(labels, IGNORED),
            "index": index,
        }


def _labels(ids: torch.Tensor, prompt: int) -> torch.Tensor:
    labels = ids.clone()
    labels[: loss_positions(prompt, len(ids)).start + 1] = IGNORED
    return labels


def padded(rows: list[torch.Tensor], value: int) -> torch.Tensor:
    """Return the rows as one tensor, filled up at their ends with a value."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
