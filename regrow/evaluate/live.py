"""A model that is loaded when a result is not in the cache, and only once."""

from functools import cached_property
from typing import TYPE_CHECKING

from regrow.checkpoint import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Live:
    """A checkpoint whose model is loaded when something first needs it, and only once."""

    def __init__(self, checkpoint: Checkpoint, dtype: str = "auto") -> None:
        self.checkpoint, self._dtype = checkpoint, dtype

    @cached_property
    def model(self) -> "PreTrainedModel":
        """The model, in evaluation mode."""
        return self.checkpoint.load(dtype=self._dtype)
