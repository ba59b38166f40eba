"""A loss on logits that never exist whole: positions pass through the head a chunk at a time.

The gradient is taken in the forward pass, while a chunk's logits are at hand. Nothing is computed twice, and peak
memory is a few chunks of logits, however many positions there are.
"""

from typing import Any, Protocol

import torch
from torch.autograd.function import once_differentiable

from regrow.tune.losses.head import Head

# Logits (positions x vocabulary) in one chunk: 128 MiB in float32. Matrix products on CPUs slow down below some
# 128 positions, which a vocabulary of 256 thousand has at this size.
_BUDGET = 2**25


class Target(Protocol):
    """What logits are compared with."""

    def __call__(self, logits: torch.Tensor, part: slice, slope: bool) -> torch.Tensor:
        """Return the loss summed over a chunk of positions.

        Args:
            logits: (positions of the chunk, vocabulary), float32 or float64; used as scratch memory.
            part: which positions these are.
            slope: leave d loss / d logits in `logits`.
        """

    def to(self, dtype: torch.dtype) -> "Target":
        """Return the target with what it multiplies (a teacher's head) in another type, for autocast."""


def summed(hidden: torch.Tensor, head: Head, target: Target, chunk: int | None = None) -> torch.Tensor:
    """Return a loss summed over positions, differentiable (once) in the hidden states and the head.

    Args:
        hidden: last hidden states, (positions, d); there may be none.
        head: the student's head. Matrix products run in its type (under autocast in autocast's), all else in float32,
            or in float64 for a head in float64.
        target: what the logits are compared with.
        chunk: positions whose logits exist at once; as many as a fixed amount of memory holds if not given.
    """
    rows = chunk or max(1, _BUDGET // head.vocabulary)
    # Within a Function's forward, gradients look disabled whether or not they are wanted.
    slope = torch.is_grad_enabled()
    return _Summed.apply(hidden, head.weight, head.bias, head, target, rows, slope)  # type: ignore[no-untyped-call]


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        head: Head,
        target: Target,
        rows: int,
        slope: bool,
    ) -> torch.Tensor:
        needed = [slope and need for need in ctx.needs_input_grad[:3]]
        head = Head(weight, bias, head.scale, head.softcap)
        kind = hidden.device.type
        if torch.is_autocast_enabled(kind) and weight.dtype != torch.float64:
            # Once here, not once a chunk.
            narrow = torch.get_autocast_dtype(kind)
            head, target = head.to(narrow), target.to(narrow)
        wide = torch.promote_types(weight.dtype, torch.float32)
        # Sums over chunks of a head in half precision would lose what a chunk adds to them.
        sums = [
            torch.empty_like(hidden) if needed[0] else None,
            torch.zeros_like(weight, dtype=wide) if needed[1] else None,
            torch.zeros_like(bias, dtype=wide) if needed[2] and bias is not None else None,
        ]
        total = torch.zeros((), dtype=wide, device=hidden.device)
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(hidden), rows):
                total += _chunk(hidden, head, target, slice(start, start + rows), sums)
        kept = zip(sums, (hidden, weight, bias), strict=True)
        ctx.save_for_backward(*(None if s is None else s.to(of.dtype) for s, of in kept))  # type: ignore[union-attr]
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = (None if saved is None else saved * grads[0] for saved in ctx.saved_tensors)
        return (*scaled, None, None, None, None)


def _chunk(
    hidden: torch.Tensor, head: Head, target: Target, part: slice, sums: list[torch.Tensor | None]
) -> torch.Tensor:
    """Return the loss of one chunk, and add its gradients to the sums that are wanted."""
    of_hidden, of_weight, of_bias = sums
    slope = any(wanted is not None for wanted in sums)
    states = hidden[part].to(head.weight.dtype)
    logits = head.logits(states)
    damping = (logits / head.softcap).square_().neg_().add_(1) if slope and head.softcap is not None else None
    loss = target(logits, part, slope)
    if not slope:
        return loss
    if damping is not None:
        logits.mul_(damping)
        del damping
    if head.scale != 1:
        logits.mul_(head.scale)
    if of_bias is not None:
        of_bias += logits.sum(0)
    slopes = logits.to(head.weight.dtype)
    del logits
    if of_hidden is not None:
        of_hidden[part] = slopes @ head.weight
    if of_weight is not None:
        if of_weight.dtype == slopes.dtype:
            of_weight.addmm_(slopes.T, states)
        else:
            of_weight += slopes.T @ states
    return loss
