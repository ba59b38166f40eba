"""What a run minimises: a sum over the tokens that have a loss. Worker only."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from regrow.tune import losses
from regrow.tune.batches import IGNORED
from regrow.tune.losses import Head
from regrow.tune.states import Probe, States
from regrow.tune.teacher import TopKLogits


@dataclass(frozen=True)
class Step:
    """One forward pass of the student, and what was asked of it."""

    inputs: dict[str, torch.Tensor]
    states: States
    head: Head
    labels: torch.Tensor  # (rows, length)
    index: torch.Tensor  # numbers of the examples

    @property
    def learn(self) -> torch.Tensor:
        """Positions whose next token has a loss, (rows, length - 1): mask and labels move together."""
        return self.labels[:, 1:] != IGNORED

    def at(self, states: torch.Tensor) -> torch.Tensor:
        """Return the states at those positions, (positions, d)."""
        return states[:, :-1][self.learn]


class Objective(Protocol):
    """A loss: its sum over a step's positions, in nats."""

    def __call__(self, step: Step) -> torch.Tensor:
        """Return the sum, connected to the graph."""


class NextToken:
    """Negative log-likelihood of the response's tokens."""

    def __call__(self, step: Step) -> torch.Tensor:
        """Return the sum over positions."""
        return losses.nll(*in_type(step.at(step.states.last), step.head), step.labels[:, 1:][step.learn])


class FromTeacher:
    """Forward KL to a teacher that runs beside the student; optionally its hidden states and embeddings too.

    Args:
        teacher: the unpruned model, in evaluation mode, on the student's device.
        depth: its number of blocks.
        temperature: of both distributions.
        hidden_states: match the states after the third-last block.
        embeddings: match the embeddings' outputs.
    """

    def __init__(
        self, teacher: Any, depth: int, *, temperature: float, hidden_states: bool, embeddings: bool
    ) -> None:
        self._teacher = teacher.requires_grad_(False).eval()
        self._probe = Probe(teacher, depth, block=hidden_states, embedded=embeddings)
        self._head = losses.head_of(teacher)
        self._temperature = temperature

    def __call__(self, step: Step) -> torch.Tensor:
        """Return the sum over positions; hidden-state terms count as much as the logits' term."""
        with torch.no_grad():
            self._teacher(**step.inputs, use_cache=False)
        theirs = self._probe.taken()
        mine = in_type(step.at(step.states.last), step.head)
        logits = losses.forward_kl(
            *mine, *in_type(step.at(theirs.last), self._head), temperature=self._temperature
        )
        pairs = ((step.states.block, theirs.block), (step.states.embedded, theirs.embedded))
        between = [
            losses.hidden_cosine(step.at(own), step.at(other))
            for own, other in pairs
            if own is not None and other is not None
        ]
        if not between:
            return logits
        total = torch.stack(between).sum()
        # alpha = L_logits / L_is (2407.14679, section 3): a number, not a path for gradients.
        alpha = (logits / total.clamp(min=torch.finfo(total.dtype).tiny)).detach()
        return logits + alpha * total


class FromTopK:
    """Forward KL to log-probabilities of a teacher that were written beforehand.

    Args:
        store: the teacher's largest log-probabilities at every position with a loss.
        temperature: the one that they were written with.
    """

    def __init__(self, store: TopKLogits, temperature: float) -> None:
        self._store, self._temperature = store, temperature

    def __call__(self, step: Step) -> torch.Tensor:
        """Return the sum over positions."""
        ids, logprobs = zip(*(self._store[number] for number in step.index.tolist()), strict=True)
        hidden, head = in_type(step.at(step.states.last), step.head)
        device = hidden.device
        return losses.top_k_kl(
            hidden,
            head,
            torch.cat(ids).to(device),
            torch.cat(logprobs).to(device),
            temperature=self._temperature,
        )


def in_type(hidden: torch.Tensor, head: Head) -> tuple[torch.Tensor, Head]:
    """Bring states and head to one type, the narrower: a trained head is float32, the states may be bfloat16."""
    narrow = min(hidden.dtype, head.weight.dtype, key=lambda dtype: dtype.itemsize)
    bias = None if head.bias is None else head.bias.to(narrow)
    return hidden.to(narrow), replace(head, weight=head.weight.to(narrow), bias=bias)
