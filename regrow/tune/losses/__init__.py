"""Losses on next-token distributions and hidden states that suit large vocabularies.

All are sums over positions; who calls divides by the valid tokens of the whole optimiser step, so that gradient
accumulation and uneven batches weigh every token alike. Positions are selected before the call, labels shifted
together with their mask.

Imported by the worker alone: this package pulls in torch.
"""

import torch
from torch.nn import functional as F

from regrow.errors import InputError
from regrow.tune.losses.chunked import summed
from regrow.tune.losses.head import Head, head_of
from regrow.tune.losses.targets import Labels, Teacher, TopK

__all__ = ["Head", "forward_kl", "head_of", "hidden_cosine", "nll", "top_k_kl"]


def nll(hidden: torch.Tensor, head: Head, labels: torch.Tensor, *, chunk: int | None = None) -> torch.Tensor:
    """Return the summed negative log-likelihood of labels, in nats.

    Args:
        hidden: last hidden states, (positions, d).
        head: the model's head.
        labels: the token that follows each position, (positions,).
        chunk: positions whose logits exist at once (default: what 2^25 logits allow).
    """
    return summed(hidden, head, Labels(labels), chunk)


def forward_kl(
    hidden: torch.Tensor,
    head: Head,
    teacher_hidden: torch.Tensor,
    teacher_head: Head,
    temperature: float = 1.0,
    *,
    chunk: int | None = None,
) -> torch.Tensor:
    """Return the sum of T^2 KL(teacher || student) over positions, in nats (Minitron's L_logits, arXiv 2407.14679).

    Args:
        hidden: the student's last hidden states, (positions, d).
        head: its head.
        teacher_hidden: the teacher's last hidden states, (positions, its d); they get no gradient.
        teacher_head: its head; it gets no gradient.
        temperature: T, which divides the logits of both.
        chunk: positions whose logits exist at once (default: what 2^25 logits allow).

    Raises:
        InputError: the two models have different vocabularies.
    """
    if head.vocabulary != teacher_head.vocabulary:
        raise InputError(
            f"teacher: its vocabulary has {teacher_head.vocabulary} tokens, the student's {head.vocabulary}; "
            "choose a teacher with the student's tokenizer"
        )
    return summed(hidden, head, Teacher(teacher_hidden.detach(), teacher_head, temperature), chunk)


def top_k_kl(
    hidden: torch.Tensor,
    head: Head,
    ids: torch.Tensor,
    logprobs: torch.Tensor,
    temperature: float = 1.0,
    *,
    chunk: int | None = None,
) -> torch.Tensor:
    """Return the sum of T^2 KL(teacher || student) over positions, as far as k tokens of the teacher tell, in nats.

    The k tokens count one by one, all others as one bucket: `sum_i p_i log(p_i / q_i) + r log(r / q_rest)`, where r is
    the mass that the teacher leaves to the rest. This is a lower bound of the full divergence, exact for k = V, and
    the same as spreading r over the rest in proportion to the student. Renormalising the k probabilities to one
    instead would teach the student that all other tokens are impossible.

    Args:
        hidden: the student's last hidden states, (positions, d).
        head: its head.
        ids: the teacher's k likeliest tokens, distinct at each position, (positions, k).
        logprobs: their log-probabilities in the teacher's whole softmax at this temperature, in nats, not renormalised,
            (positions, k).
        temperature: T, which divides the student's logits, and divided the teacher's.
        chunk: positions whose logits exist at once (default: what 2^25 logits allow).

    Raises:
        InputError: there are more tokens at a position than the vocabulary has.
    """
    if ids.shape[-1] > head.vocabulary:
        raise InputError(
            f"teacher: {ids.shape[-1]} tokens at each position, but the student's vocabulary has {head.vocabulary}; "
            "choose a teacher with the student's tokenizer"
        )
    return summed(hidden, head, TopK(ids, logprobs.detach(), temperature), chunk)


def hidden_cosine(states: torch.Tensor, teacher_states: torch.Tensor) -> torch.Tensor:
    """Return the sum of 1 - cosine over positions (Minitron's L_o on hidden states, L_emb on embeddings).

    Args:
        states: the student's, (positions, d).
        teacher_states: the teacher's, (positions, d); they get no gradient.

    Raises:
        InputError: the two differ in width.
    """
    if states.shape[-1] != teacher_states.shape[-1]:
        raise InputError(
            f"teacher: its hidden states have {teacher_states.shape[-1]} channels, the student's {states.shape[-1]}; "
            "compare states only where channels were not pruned"
        )
    wide = torch.promote_types(states.dtype, torch.float32)
    return (1 - F.cosine_similarity(states.to(wide), teacher_states.detach().to(wide), dim=-1)).sum()
