"""Stand-ins for decoder blocks: run the rest of a model as it is, and only the blocks that are wanted.

The model's own forward pass prepares masks and rotary embeddings for every block, each family in its way; with
stand-ins in the list of blocks it does so for a part of them, without a line of code about families.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextmanager
def standing_in(blocks: "torch.nn.ModuleList", stand_ins: "Mapping[int, torch.nn.Module]") -> Iterator[None]:
    """Put modules into the place of blocks for a while."""
    originals = {number: blocks[number] for number in stand_ins}
    for number, module in stand_ins.items():
        blocks[number] = module
    try:
        yield
    finally:
        for number, module in originals.items():
            blocks[number] = module


def skip() -> "torch.nn.Module":
    """Return a block that passes the state on."""
    return _module(lambda state, _kwargs: state)


def resume(state: "torch.Tensor") -> "torch.nn.Module":
    """Return a block that passes `state` on, whatever it gets: the blocks before it need not run."""
    return _module(lambda _state, _kwargs: state)


def capture(into: "list[torch.Tensor]") -> "torch.nn.Module":
    """Return a block that keeps the state that it gets, and passes it on."""

    def keep(state: "torch.Tensor", _kwargs: dict[str, Any]) -> "torch.Tensor":
        into.append(state)
        return state

    return _module(keep)


def run_on(block: "torch.nn.Module", state: "torch.Tensor", into: "list[torch.Tensor]") -> "torch.nn.Module":
    """Return a block that runs `block` on `state`, whatever it gets, and keeps the result."""

    def run(_state: "torch.Tensor", kwargs: dict[str, Any]) -> "torch.Tensor":
        output = block(state, **kwargs)
        into.append(output[0] if isinstance(output, tuple) else output)
        return into[-1]

    return _module(run)


def _module(function: Any) -> "torch.nn.Module":
    import torch

    class StandIn(torch.nn.Module):
        def forward(self, hidden_states: "torch.Tensor", **kwargs: Any) -> "torch.Tensor":
            result: torch.Tensor = function(hidden_states, kwargs)
            return result

    return StandIn()
