"""The engine that writes answers: transformers, in this process, in batches.

Greedy or sampled decoding with a key-value cache. Sequences that have ended leave the batch, so a long
answer does not make the short ones pay. The same prompts, settings and machine give the same texts.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from regrow.selfdata import prompts

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from regrow.checkpoint import Checkpoint

log = logging.getLogger(__name__)


class Sampling(BaseModel):
    """How the next token is chosen and when to stop."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_new_tokens: int = Field(256, ge=1, description="longest answer, in tokens")
    temperature: float = Field(
        0.0, ge=0.0, description="0 takes the likeliest token, else softmax temperature"
    )
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="nucleus: probability mass that is sampled from")
    seed: int = Field(0, ge=0, description="seed of the run; each batch has its own, derived from it")


@dataclass(frozen=True, slots=True)
class Generation:
    """What the model wrote after one prompt.

    `finished` says that it ended by itself. `overlong` says that prompt and answer do not fit in the
    context, so nothing was generated. `seed` is that of the batch, -1 for greedy decoding.
    """

    text: str
    tokens: int
    finished: bool
    prompt_tokens: int
    overlong: bool = False
    seed: int = -1


class Engine(Protocol):
    """Anything that continues prompts."""

    name: str

    def generate(
        self, texts: Sequence[str], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        """Continue each prompt; results come in the order of the prompts.

        Args:
            texts: rendered prompts, special tokens included.
            sampling: how to decode.
            progress: told the number of answers that have just been finished.
        """
        ...

    def render(self, messages: list[dict[str, str]], prefix: str = "") -> str:
        """Return the prompt for a conversation; the answer starts with `prefix`."""
        ...

    def count(self, text: str) -> int:
        """Return the number of tokens in a text, without special tokens."""
        ...


class TransformersEngine:
    """Generation in this process.

    Args:
        checkpoint: the model; on CUDA when there is one.
        batch_size: most sequences in a batch.
        batch_tokens: most tokens in a batch, answers at full length included (bounds the cache's memory).
    """

    name = "transformers"

    def __init__(self, checkpoint: "Checkpoint", *, batch_size: int = 32, batch_tokens: int = 65536) -> None:
        self._tokenizer: PreTrainedTokenizerBase = checkpoint.chat_tokenizer()
        self._model: Any = checkpoint.load()
        self._batch_size = batch_size
        self._batch_tokens = batch_tokens
        self._ends = _end_tokens(self._model, self._tokenizer)
        config = self._model.config.get_text_config()
        self._context: int = getattr(config, "max_position_embeddings", None) or 2**31

    def render(self, messages: list[dict[str, str]], prefix: str = "") -> str:
        """Return the prompt for a conversation, by the model's own chat template."""
        return prompts.render(self._tokenizer, messages, prefix)

    def count(self, text: str) -> int:
        """Return the number of tokens in a text, without special tokens."""
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def generate(
        self, texts: Sequence[str], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        """Continue each prompt; see `Engine.generate`."""
        if not texts:
            return []
        tokens: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        results: list[Generation | None] = [
            None
            if ids and len(ids) + sampling.max_new_tokens <= self._context
            else Generation("", 0, False, len(ids), overlong=True)
            for ids in tokens
        ]
        pending = [i for i, result in enumerate(results) if result is None]
        if progress and len(pending) < len(texts):
            progress(len(texts) - len(pending))
        # Neighbours of like length waste the least padding; the index makes the order total.
        pending.sort(key=lambda i: (-len(tokens[i]), i))
        lengths = [len(tokens[i]) + sampling.max_new_tokens for i in pending]
        for number, (start, stop) in enumerate(_batches(lengths, self._batch_size, self._batch_tokens)):
            chosen = pending[start:stop]
            seed = (sampling.seed * 1_000_003 + number) % 2**63 if sampling.temperature else -1
            for i, answer in zip(
                chosen, self._batch([tokens[i] for i in chosen], sampling, seed), strict=True
            ):
                finished = bool(answer) and answer[-1] in self._ends
                text = self._tokenizer.decode(answer, skip_special_tokens=True)
                results[i] = Generation(str(text), len(answer), finished, len(tokens[i]), seed=seed)
            if progress:
                progress(len(chosen))
        return [result for result in results if result is not None]

    def _batch(self, prompts: list[list[int]], sampling: Sampling, seed: int) -> list[list[int]]:
        """Return the new tokens of each prompt, the end token included."""
        import torch

        device = self._model.device
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        step, mask = ids.to(device), mask.to(device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        ends = torch.tensor(sorted(self._ends), device=device)
        generator = torch.Generator(device=device).manual_seed(seed) if seed >= 0 else None
        answers: list[list[int]] = [[] for _ in prompts]
        rows = list(range(len(prompts)))  # row of the batch -> prompt
        alive = torch.ones(len(rows), dtype=torch.bool, device=device)
        cache = None
        with torch.inference_mode():
            for _ in range(sampling.max_new_tokens):
                output = self._model(
                    input_ids=step,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache = output.past_key_values
                chosen = _choose(output.logits[:, -1].float(), sampling, generator)
                for row, (token, live) in enumerate(zip(chosen.tolist(), alive.tolist(), strict=True)):
                    if live:
                        answers[rows[row]].append(token)
                alive &= ~torch.isin(chosen, ends)
                left = int(alive.sum())
                if not left:
                    break
                positions = positions[:, -1:] + 1
                mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=-1)
                step = chosen[:, None]
                # Shrinking copies the whole cache, so it must save at least a quarter of the work.
                if left <= 0.75 * len(rows) and _can_shrink(cache):
                    keep = alive.nonzero()[:, 0]
                    cache.batch_select_indices(keep)
                    step, mask, positions, alive = step[keep], mask[keep], positions[keep], alive[keep]
                    rows = [rows[i] for i in keep.tolist()]
        return answers


def _choose(
    logits: "torch.Tensor", sampling: Sampling, generator: "torch.Generator | None"
) -> "torch.Tensor":
    """Pick the next token of each row from float32 logits (batch, vocabulary)."""
    import torch

    if generator is None:
        return logits.argmax(-1)
    probabilities = (logits / sampling.temperature).softmax(-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(-1, descending=True)
        # A token stays when the mass before it is below top_p, so the likeliest always stays.
        ordered[ordered.cumsum(-1) - ordered >= sampling.top_p] = 0
        picked = torch.multinomial(ordered, 1, generator=generator)
        return order.gather(-1, picked)[:, 0]
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def _batches(lengths: list[int], most: int, most_tokens: int) -> Iterator[tuple[int, int]]:
    """Cut lengths (descending) into ranges of at most `most` rows and `most_tokens` padded tokens."""
    start = 0
    while start < len(lengths):
        rows = max(1, min(most, most_tokens // lengths[start]))
        yield start, min(start + rows, len(lengths))
        start += rows


def _can_shrink(cache: Any) -> bool:
    # Recurrent states (Mamba and its kin) have no such method; there the ended rows stay until the end.
    layers = getattr(cache, "layers", None) or []
    return bool(layers) and all(hasattr(layer, "batch_select_indices") for layer in layers)


def _end_tokens(model: Any, tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Collect what ends an answer: the generation config's end tokens and the tokenizer's."""
    stated: Any = model.generation_config.eos_token_id
    ends: set[Any] = set(stated) if isinstance(stated, list) else {stated}
    ends.add(tokenizer.eos_token_id)
    ends.discard(None)
    if not ends:
        log.warning("the model names no end token; every answer will run to its full length")
    return ends
