"""Perplexity: how surprised the model is by text it has not seen.

The texts are joined by blank lines into one stream of tokens. A window of `window` tokens moves over it
in steps of `stride`; each window scores the tokens that no earlier one scored, given all tokens before
them in that window. The first token of a window has nothing before it and is not scored (where windows do
not overlap, that is one token in every `window`). Perplexity is exp of the mean negative log-likelihood
of the scored tokens. It can only be compared between models of the same tokenizer and the same settings.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from regrow.errors import InputError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Perplexity(BaseModel):
    """Perplexity and what it was taken over."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    value: float = Field(description="exp of the mean loss; infinite if the model gives text no probability")
    loss: float = Field(description="mean negative log-likelihood of a scored token, in nats")
    tokens: int = Field(description="scored tokens")


def windows(length: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, first): the window [begin, end) scores the tokens [first, end).

    Every token but the first of the stream, and of windows that do not overlap, is scored exactly once.
    """
    scored = 0
    for begin in range(0, length, stride):
        end = min(begin + window, length)
        first = max(begin + 1, scored)
        if first < end:
            yield begin, end, first
        scored = end
        if end == length:
            return


def perplexity(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    texts: list[str],
    *,
    window: int = 512,
    stride: int | None = None,
    batch_size: int = 4,
) -> Perplexity:
    """Measure the perplexity of `texts`.

    A tokenizer that begins every text with a special token (Llama, Gemma) gets it at the head of every
    window, where it takes the place of one token and is never scored. Log-probabilities are taken in
    float32 and summed in float64. Logits that are not numbers count as an infinite loss.

    Args:
        model: a causal LM in evaluation mode.
        tokenizer: its tokenizer.
        texts: what is read; joined by blank lines.
        window: tokens that the model sees at once.
        stride: tokens that the window moves by; the window if not given.
        batch_size: windows in one forward pass.

    Raises:
        InputError: fewer than two tokens, or a window longer than the model can see.
    """
    import torch

    longest = getattr(model.config, "max_position_embeddings", None)
    if longest and window > longest:
        raise InputError(
            f"evaluate.window: {window} tokens are more than the model's {longest}; choose fewer"
        )
    prefix = _prefix(tokenizer)
    # The stream is one text on purpose, however long: no warning about the model's length.
    stream = tokenizer("\n\n".join(texts), add_special_tokens=False, verbose=False)["input_ids"]
    if len(stream) < 2:
        raise InputError("evaluate.perplexity: the texts have fewer than two tokens; choose other texts")
    room = window - len(prefix)
    if room < 2:
        raise InputError(f"evaluate.window: {window} tokens leave no room for text; choose more")
    ids = torch.tensor(stream)
    pieces = list(windows(len(stream), room, min(stride or room, room)))
    total = 0.0
    tokens = 0
    with (
        torch.inference_mode(),
        tqdm(total=len(stream), desc="perplexity", unit="token", unit_scale=True) as bar,
    ):
        for group in _batches(pieces, batch_size):
            rows = torch.stack([torch.cat([prefix, ids[begin:end]]) for begin, end, _ in group]).to(
                model.device
            )
            logits = model(input_ids=rows, use_cache=False).logits
            for row, row_logits, (begin, end, first) in zip(rows, logits, group, strict=True):
                shift = len(prefix) - begin
                total += _loss(
                    row_logits[first + shift - 1 : end + shift - 1], row[first + shift : end + shift]
                )
                tokens += end - first
            bar.update(sum(end - first for _, end, first in group))
    loss = total / tokens
    if math.isnan(loss):
        loss = math.inf
    # Beyond this a float64 overflows; the model is ruined and its perplexity infinite for all purposes.
    return Perplexity(value=math.exp(loss) if loss < 700 else math.inf, loss=loss, tokens=tokens)


def _loss(logits: "torch.Tensor", targets: "torch.Tensor") -> float:
    import torch.nn.functional as F

    return float(F.cross_entropy(logits.float(), targets, reduction="none").double().sum())


def _prefix(tokenizer: "PreTrainedTokenizerBase") -> "torch.Tensor":
    """Return the token that the tokenizer begins every text with, as a tensor of length 0 or 1."""
    import torch

    bos = tokenizer.bos_token_id
    begins = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return torch.tensor([bos] if begins else [], dtype=torch.long)


def _batches(pieces: list[tuple[int, int, int]], size: int) -> Iterator[list[tuple[int, int, int]]]:
    """Group windows of the same length, so that none is padded."""
    group: list[tuple[int, int, int]] = []
    for piece in pieces:
        if group and (len(group) == size or piece[1] - piece[0] != group[0][1] - group[0][0]):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group
