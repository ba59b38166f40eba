"""A batch that sequences leave when they have ended, and others join while it runs.

Sequences stand at the right end of one cache; what is missing at the left is padding, which the mask hides. So a
sequence that joins needs no more than padding of its own, or of the others, to the same length, and columns that
are padding for everybody are cut off. Only a cache of plain attention layers can be put together like this;
sliding windows and recurrent states run to their end first.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from regrow.selfdata.engines.base import Request, Sampling

_ROOM = 64  # tokens that a cache can grow by before it is moved
_READ = 4096  # tokens of prompts, padding included, that are read at one time


@dataclass(slots=True)
class _Rows:
    """What is known of each row; every tensor and list has one entry a row."""

    requests: list[Request]
    answers: list[list[int]]
    mask: torch.Tensor  # (rows, cached tokens)
    positions: torch.Tensor  # of the next token
    tokens: torch.Tensor  # the next token's input
    alive: torch.Tensor
    chances: torch.Tensor | None  # (rows, max_new_tokens), for sampling


class RunningBatch:
    """Sequences that grow by a token a step.

    Args:
        model: a causal LM in evaluation mode.
        ends: tokens that end an answer.
        sampling: how to decode.
    """

    def __init__(self, model: Any, ends: Iterable[int], sampling: Sampling) -> None:
        self._model, self._sampling = model, sampling
        self._ends = torch.tensor(sorted(ends), device=model.device)
        layers = DynamicCache(config=model.config).layers
        self._is_plain = all(type(layer) is DynamicLayer for layer in layers)
        self._cache: Any = None
        self._rows: _Rows | None = None

    def __len__(self) -> int:
        """Rows, those that have ended since the last `leave` among them."""
        return len(self._rows.requests) if self._rows else 0

    @property
    def can_join(self) -> bool:
        """Whether more sequences may be added now."""
        return self._rows is None or self._is_plain

    @property
    def alive(self) -> int:
        """Rows that have not ended."""
        return int(self._rows.alive.sum()) if self._rows else 0

    @property
    def requests(self) -> list[Request]:
        """What the rows continue."""
        return self._rows.requests if self._rows else []

    def add(self, requests: Sequence[Request]) -> None:
        """Read prompts and choose their first tokens; they are rows from now on."""
        groups = list(_groups(requests)) if self._is_plain else [requests]
        read = [self._read(group) for group in groups]
        if self._rows is not None:
            read.insert(0, (self._rows, self._cache))
        self._rows, self._cache = read[0] if len(read) == 1 else _joined(read)

    def step(self) -> None:
        """Let every row grow by a token."""
        rows = self._rows
        assert rows is not None
        rows.mask = F.pad(rows.mask, (0, 1), value=1)
        tokens, positions = rows.tokens[:, None], rows.positions[:, None]
        rows.positions = rows.positions + 1
        self._cache = self._forward(rows, tokens, positions, self._cache)

    def leave(self) -> list[tuple[Request, list[int]]]:
        """Take ended rows out; returns what they continue, and their tokens with the end token.

        A cache that cannot be cut keeps them until all have ended.
        """
        rows = self._rows
        if rows is None:
            return []
        alive = rows.alive.tolist()
        if not any(alive):
            self._rows = self._cache = None
            return list(zip(rows.requests, rows.answers, strict=True))
        if all(alive) or not _can_shrink(self._cache):
            return []
        gone = [(rows.requests[i], rows.answers[i]) for i, live in enumerate(alive) if not live]
        kept = [i for i, live in enumerate(alive) if live]
        keep = torch.tensor(kept, device=self._model.device)
        self._cache.batch_select_indices(keep)
        mask = rows.mask[keep]
        if self._is_plain and (padding := int(mask.any(0).to(torch.int).argmax())):
            mask = mask[:, padding:]
            for layer in self._cache.layers:
                layer.cut_left(padding)
        self._rows = _Rows(
            requests=[rows.requests[i] for i in kept],
            answers=[rows.answers[i] for i in kept],
            mask=mask,
            positions=rows.positions[keep],
            tokens=rows.tokens[keep],
            alive=rows.alive[keep],
            chances=None if rows.chances is None else rows.chances[keep],
        )
        return gone

    def _read(self, requests: Sequence[Request]) -> tuple[_Rows, Any]:
        """Return rows of their own for prompts, with their first tokens, and their cache."""
        longest = max(len(request.prompt) for request in requests)
        ids = torch.zeros(len(requests), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            ids[row, longest - len(request.prompt) :] = torch.tensor(request.prompt)
            mask[row, longest - len(request.prompt) :] = 1
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        chances = None
        if self._sampling.temperature:
            seeds = [request.seed for request in requests]
            chances = draw(seeds, self._sampling.max_new_tokens).to(self._model.device)
        rows = _Rows(
            requests=list(requests),
            answers=[[] for _ in requests],
            mask=mask,
            positions=positions[:, -1] + 1,
            tokens=ids[:, -1],
            alive=torch.ones(len(requests), dtype=torch.bool, device=self._model.device),
            chances=chances,
        )
        cache = Cache(layer_class_to_replicate=_GrowingLayer) if self._is_plain else None
        return rows, self._forward(rows, ids, positions, cache)

    def _forward(self, rows: _Rows, ids: torch.Tensor, positions: torch.Tensor, cache: Any) -> Any:
        """Run the model, choose each row's next token, and return the cache."""
        output = self._model(
            input_ids=ids,
            attention_mask=rows.mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        chance = None
        if rows.chances is not None:
            counts = torch.tensor([len(answer) for answer in rows.answers], device=ids.device)
            counts = counts.clamp(max=self._sampling.max_new_tokens - 1)  # ended rows draw no more
            chance = rows.chances.gather(1, counts[:, None])[:, 0]
        chosen = choose(output.logits[:, -1].float(), self._sampling, chance)
        ended = torch.isin(chosen, self._ends).tolist()
        alive = rows.alive.tolist()
        for row, token in enumerate(chosen.tolist()):
            if alive[row]:
                rows.answers[row].append(token)
                full = len(rows.answers[row]) == self._sampling.max_new_tokens
                alive[row] = not (ended[row] or full)
        rows.alive = torch.tensor(alive, device=ids.device)
        rows.tokens = chosen
        return output.past_key_values


def _groups(requests: Sequence[Request]) -> Iterator[list[Request]]:
    """Cut prompts, longest first, into groups that are read together: like lengths, of which little is padding."""
    group: list[Request] = []
    for request in sorted(requests, key=lambda one: -len(one.prompt)):
        if group and (len(group) + 1) * len(group[0].prompt) > _READ:
            yield group
            group = []
        group.append(request)
    yield group


def _joined(parts: Sequence[tuple[_Rows, Any]]) -> tuple[_Rows, Any]:
    """Put rows with their caches below each other; the first cache becomes that of all."""
    every = [rows for rows, _ in parts]
    length = max(rows.mask.shape[1] for rows in every)
    padding = [length - rows.mask.shape[1] for rows in every]
    cache = parts[0][1]
    for layers in zip(*(other.layers for _, other in parts), strict=True):
        layers[0].join(layers, padding)
    return _Rows(
        requests=[request for rows in every for request in rows.requests],
        answers=[answer for rows in every for answer in rows.answers],
        mask=torch.cat([F.pad(rows.mask, (pad, 0)) for rows, pad in zip(every, padding, strict=True)]),
        positions=torch.cat([rows.positions for rows in every]),
        tokens=torch.cat([rows.tokens for rows in every]),
        alive=torch.cat([rows.alive for rows in every]),
        chances=torch.cat(chances)
        if (chances := [c for rows in every if (c := rows.chances) is not None])
        else None,
    ), cache


class _GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one attention layer, with room to grow: the stock one copies all it holds at each token."""

    keys: torch.Tensor
    values: torch.Tensor
    _buffers: tuple[torch.Tensor, torch.Tensor] | None = None  # `keys` and `values` are their beginnings

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append states (batch, heads, tokens, channels) and return all that are held."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held = self.get_seq_length()
        end = held + key_states.shape[-2]
        if self._buffers is None or end > self._buffers[0].shape[-2]:
            self._buffers = (
                _with_room(self.keys, key_states, held, end + _ROOM),
                _with_room(self.values, value_states, held, end + _ROOM),
            )
        self._buffers[0][:, :, held:end] = key_states
        self._buffers[1][:, :, held:end] = value_states
        self.keys, self.values = (buffer[:, :, :end] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only these rows."""
        super().batch_select_indices(indices)
        self._buffers = None

    def cut_left(self, tokens: int) -> None:
        """Forget the first tokens."""
        self.keys, self.values = self.keys[:, :, tokens:], self.values[:, :, tokens:]
        self._buffers = None

    def join(self, layers: Sequence[DynamicLayer], padding: Sequence[int]) -> None:
        """Hold the rows of all these layers, this one first, each with so much padding at the left."""
        padded = [
            [F.pad(states, (0, 0, pad, 0)) for states in (layer.keys, layer.values)]
            for layer, pad in zip(layers, padding, strict=True)
        ]
        self.keys, self.values = (torch.cat(states) for states in zip(*padded, strict=True))
        self._buffers = None


def _with_room(held: torch.Tensor, states: torch.Tensor, tokens: int, length: int) -> torch.Tensor:
    """Return a buffer of `length` tokens that begins with the `tokens` ones that are held."""
    batch, heads, _, channels = states.shape
    buffer = states.new_empty(batch, heads, length, channels)
    if tokens:
        buffer[:, :, :tokens] = held
    return buffer


def _can_shrink(cache: Any) -> bool:
    # Recurrent states (Mamba and its kin) have no such method.
    layers = getattr(cache, "layers", None) or []
    return bool(layers) and all(hasattr(layer, "batch_select_indices") for layer in layers)


def draw(seeds: Sequence[int], count: int) -> torch.Tensor:
    """Draw `count` numbers in [0, 1) for each seed: (seeds, count), float64.

    Each row has its own, so what it draws does not depend on the rows that share its batch.
    """
    return torch.stack(
        [
            torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            for seed in seeds
        ]
    )


def choose(logits: torch.Tensor, sampling: Sampling, chance: torch.Tensor | None) -> torch.Tensor:
    """Pick the next token of each row.

    Args:
        logits: float32, (batch, vocabulary).
        sampling: temperature and nucleus.
        chance: float64 in [0, 1), (batch,): where on the cumulative distribution the token lies; None takes
            the likeliest.
    """
    if chance is None:
        return logits.argmax(-1)
    probabilities = (logits / sampling.temperature).softmax(-1)
    order = None
    if sampling.top_p < 1:
        probabilities, order = probabilities.sort(-1, descending=True)
        # A token stays when the mass before it is below top_p, so the likeliest always stays.
        probabilities[probabilities.cumsum(-1) - probabilities >= sampling.top_p] = 0
    mass = probabilities.double().cumsum(-1)
    picked = torch.searchsorted(mass, (chance * mass[:, -1])[:, None], right=True)
    # The last step of the sum is where rounding could lead past the last token that has any chance.
    picked = picked.minimum((probabilities > 0).cumsum(-1).argmax(-1, keepdim=True))
    return (picked if order is None else order.gather(-1, picked))[:, 0]
