"""Generation by transformers, in this process, in batches.

Greedy or sampled decoding with a key-value cache. Sequences that have ended leave the batch, so a long
answer does not make the short ones pay. The same prompts, settings and machine give the same texts.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from regrow.selfdata.engines.base import ChatPrompts, Generation, Sampling

if TYPE_CHECKING:
    import torch

    from regrow.checkpoint import Checkpoint


class TransformersEngine(ChatPrompts):
    """Generation in this process.

    Args:
        checkpoint: the model; on CUDA when there is one.
        batch_size: most sequences in a batch.
        batch_tokens: most tokens in a batch, answers at full length included (bounds the cache's memory).
    """

    name = "transformers"

    def __init__(self, checkpoint: "Checkpoint", *, batch_size: int = 32, batch_tokens: int = 65536) -> None:
        super().__init__(checkpoint)
        self._model: Any = checkpoint.load()
        self._batch_size = batch_size
        self._batch_tokens = batch_tokens

    def generate(
        self, texts: Sequence[str], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        """Continue each prompt; see `Engine.generate`."""
        if not texts:
            return []
        tokens = self._encode(texts)
        results = self._overlong(tokens, sampling.max_new_tokens, progress)
        pending = [i for i, result in enumerate(results) if result is None]
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
