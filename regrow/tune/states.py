"""What goes on inside a model in one forward pass, without the logits of every position. Worker only."""

from dataclasses import dataclass
from typing import Any

import torch

from regrow.anatomy import decoder_blocks

_ABOVE = (
    2  # blocks above the one whose states are matched: Minitron's "last-2 to last-2" (2407.14679, table 17)
)


@dataclass
class States:
    """Activations of one forward pass, (rows, length, d)."""

    last: torch.Tensor
    block: torch.Tensor | None = None
    embedded: torch.Tensor | None = None


class Probe:
    """Hooks on a model that keep the states a loss needs.

    The output head is shown a single position: a loss that works on chunks of positions multiplies with the
    head itself, so that (tokens x vocabulary) never exists at once. Everything else is the model's own
    forward pass, through whatever wraps it (DDP, autocast), and no method of the model is replaced.

    Args:
        model: a transformers causal LM, not wrapped.
        depth: number of its decoder blocks.
        block: keep the output of the third-last block.
        embedded: keep the output of the embeddings.
    """

    def __init__(self, model: Any, depth: int, *, block: bool = False, embedded: bool = False) -> None:
        self._kept: dict[str, torch.Tensor] = {}
        self._hooks = [model.get_output_embeddings().register_forward_pre_hook(self._head)]
        if block:
            third_last = decoder_blocks(model, depth)[max(depth - 1 - _ABOVE, 0)]
            self._hooks.append(third_last.register_forward_hook(self._output("block")))
        if embedded:
            self._hooks.append(model.get_input_embeddings().register_forward_hook(self._output("embedded")))

    def _head(self, module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        self._kept["last"] = arguments[0]
        return (arguments[0][:, :1],)

    def _output(self, name: str) -> Any:
        def keep(module: Any, arguments: Any, output: Any) -> None:
            self._kept[name] = output[0] if isinstance(output, tuple) else output

        return keep

    def taken(self) -> States:
        """Return the states of the last forward pass and forget them here."""
        states = States(self._kept["last"], self._kept.get("block"), self._kept.get("embedded"))
        self._kept.clear()
        return states

    def remove(self) -> None:
        """Take the hooks off: the model's logits are whole again."""
        for hook in self._hooks:
            hook.remove()
