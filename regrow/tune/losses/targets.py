"""What a chunk of logits is compared with: labels, a teacher, or what was kept of a teacher's distribution.

Every loss is a sum over positions, in nats. Slopes are those of softmax: `q - p` for logits with probabilities q and
target probabilities p. Temperature T divides logits, and losses are multiplied by T^2 so that the size of gradients
does not depend on it; the slope is then `T (q - p)`.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch

from regrow.tune.losses.head import Head


@dataclass(frozen=True, eq=False)
class Labels:
    """The token that follows each position, (positions,)."""

    labels: torch.Tensor

    def __call__(self, logits: torch.Tensor, part: slice, slope: bool) -> torch.Tensor:
        """Return the summed negative log-likelihood."""
        label = self.labels[part, None]
        logits.sub_(logits.amax(-1, keepdim=True))
        chosen = logits.gather(-1, label)
        norm = logits.exp_().sum(-1, keepdim=True)
        loss = (norm.log() - chosen).sum()
        if slope:
            logits.div_(norm).scatter_add_(-1, label, logits.new_full(label.shape, -1.0))
        return loss

    def to(self, dtype: torch.dtype) -> Self:
        """Return itself: nothing is multiplied."""
        return self


@dataclass(frozen=True, eq=False)
class Teacher:
    """The teacher's last hidden states, (positions, its own d), and its head."""

    hidden: torch.Tensor
    head: Head
    temperature: float

    def __call__(self, logits: torch.Tensor, part: slice, slope: bool) -> torch.Tensor:
        """Return the summed T^2 KL(teacher || student)."""
        t = self.temperature
        log_q = _log_softmax_(logits, t)
        log_p = _log_softmax_(self.head.logits(self.hidden[part]).to(logits.dtype), t)
        p = log_p.exp()
        loss = log_p.sub_(log_q).mul_(p).sum() * t**2
        if slope:
            log_q.exp_().sub_(p)
            if t != 1:
                log_q.mul_(t)
        return loss

    def to(self, dtype: torch.dtype) -> Self:
        """Return the teacher with its head in another type."""
        return replace(self, head=self.head.to(dtype))


@dataclass(frozen=True, eq=False)
class TopK:
    """The teacher's k likeliest tokens and their log-probabilities, (positions, k) each.

    The log-probabilities are those of the teacher's whole softmax at this temperature.
    """

    ids: torch.Tensor
    logprobs: torch.Tensor
    temperature: float

    def __call__(self, logits: torch.Tensor, part: slice, slope: bool) -> torch.Tensor:
        """Return the summed T^2 KL between the partitions into k tokens and the rest."""
        t, ids = self.temperature, self.ids[part]
        log_p = self.logprobs[part].to(logits.dtype)
        p = log_p.exp()
        rest = self._rest(p, logits.shape[-1])
        if t != 1:
            logits.div_(t)
        kept = logits.gather(-1, ids)
        # The student's rest is summed by itself: 1 - sum of the kept would lose every digit of a small one.
        logits.scatter_(-1, ids, -torch.inf)
        top = logits.amax(-1, keepdim=True).clamp(
            min=torch.finfo(logits.dtype).min
        )  # -inf if nothing is left
        norm = logits.sub_(top).exp_().sum(-1, keepdim=True)
        log_rest = norm.log() + top
        log_norm = torch.logaddexp(log_rest, kept.logsumexp(-1, keepdim=True))
        log_q, log_q_rest = kept - log_norm, log_rest - log_norm
        loss = _divergence(p, log_p, log_q).sum() + _divergence(rest, rest.log(), log_q_rest).sum()
        if slope:
            mass = p.sum(-1, keepdim=True) + rest  # 1 but for rounding
            logits.mul_(t * (mass * log_q_rest.exp() - rest) / norm.clamp(min=1))
            logits.scatter_(-1, ids, t * (mass * log_q.exp() - p))
        return loss * t**2

    @staticmethod
    def _rest(p: torch.Tensor, vocabulary: int) -> torch.Tensor:
        """Return the teacher's probability of all other tokens, (positions, 1)."""
        # Stored log-probabilities are rounded: their sum may exceed one, and differs from it where nothing is left.
        rest = (1 - p.double().sum(-1, keepdim=True)).clamp(min=0).to(p.dtype)
        return rest if p.shape[-1] < vocabulary else torch.zeros_like(rest)

    def to(self, dtype: torch.dtype) -> Self:
        """Return itself: nothing is multiplied."""
        return self


def _log_softmax_(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Turn logits into log-probabilities, in place."""
    if temperature != 1:
        logits.div_(temperature)
    return logits.sub_(logits.logsumexp(-1, keepdim=True))


def _divergence(p: torch.Tensor, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Return p log(p / q), which is 0 where p is."""
    return torch.where(p > 0, p * (log_p - log_q), 0)
