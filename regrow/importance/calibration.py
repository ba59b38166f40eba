"""The calibration texts as batches of tokens."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regrow.errors import InputError
from regrow.importance.spec import ImportanceSpec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Batch:
    """Texts that go through the model together.

    `ids` and `mask` are (texts, longest); the mask is 1 on tokens and 0 on padding. Padding may stand on either
    side: positions are counted over real tokens.
    """

    ids: "torch.Tensor"
    mask: "torch.Tensor"

    @property
    def positions(self) -> "torch.Tensor":
        """Place of every token in its text, (texts, longest); 0 on padding before it."""
        return (self.mask.cumsum(dim=1) - 1).clamp(min=0)

    @property
    def last(self) -> "torch.Tensor":
        """Column of each text's last token, (texts,)."""
        return self.mask.shape[1] - self.mask.flip(1).argmax(dim=1) - 1

    def counted(self, skip_first: int) -> "torch.Tensor":
        """Return which tokens means over tokens count, (texts, longest), boolean."""
        real = self.mask.bool()
        return real & (self.positions >= skip_first) if skip_first else real

    def to(self, device: Any) -> "Batch":
        """Return the batch on a device."""
        return Batch(self.ids.to(device), self.mask.to(device))


def batches(tokenizer: Any, texts: list[str], spec: ImportanceSpec) -> list[Batch]:
    """Encode texts, longest first so that little is padded.

    Raises:
        InputError: no texts, or none with enough tokens.
    """
    import torch

    if not texts:
        raise InputError(
            "importance: the calibration set is empty; name a text source with at least one text"
        )
    least = max(2, spec.skip_first + 1)
    encoded = [
        row
        for text in texts
        if len(row := tokenizer(text, truncation=True, max_length=spec.max_tokens).input_ids) >= least
    ]
    if not encoded:
        raise InputError(f"importance: no calibration text has {least} tokens; choose longer texts")
    order = sorted(encoded, key=len, reverse=True)
    found = []
    for i in range(0, len(order), spec.batch_size):
        part = order[i : i + spec.batch_size]
        longest = len(part[0])
        found.append(
            Batch(
                torch.tensor([row + [0] * (longest - len(row)) for row in part]),
                torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in part]),
            )
        )
    return found
