"""Generation by transformers, in this process, in batches.

Greedy or sampled decoding with a key-value cache. Sequences that have ended leave the batch, so a long
answer does not make the short ones pay. The same prompts, settings and machine give the same texts.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from regrow.device import free_memory
from regrow.errors import RegrowError
from regrow.selfdata.engines.base import ChatPrompts, Generation, Sampling, checked_seeds

if TYPE_CHECKING:
    import torch

    from regrow.checkpoint import Checkpoint

log = logging.getLogger(__name__)

# Beyond this many rows a CPU gets no faster, measured; a GPU does until its memory is full.
_MOST_ROWS = {"cpu": 64, "cuda": 512}


class TransformersEngine(ChatPrompts):
    """Generation in this process.

    Args:
        checkpoint: the model; on CUDA when there is one.
        batch_size: most sequences in a batch; None takes what fits into the memory that is free.
    """

    name = "transformers"
    in_flight = 0

    def __init__(self, checkpoint: "Checkpoint", *, batch_size: int | None = None) -> None:
        super().__init__(checkpoint)
        self._model: Any = checkpoint.load()
        self._most_rows = batch_size or _MOST_ROWS[self._model.device.type]
        self._row_bytes, self._token_bytes = _footprint(self._model)
        # The allocator needs slack, and a CPU's memory belongs to other processes too.
        self._memory = int(free_memory() * (0.8 if self._model.device.type == "cuda" else 0.5))

    def generate(
        self,
        texts: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Generation]:
        """Continue each prompt; see `Engine.generate`."""
        import torch

        tokens, own = self._encode(texts), checked_seeds(seeds, texts, sampling)
        results = self._overlong(tokens, sampling.max_new_tokens, progress)
        pending = [i for i, result in enumerate(results) if result is None]
        # Neighbours of like length waste the least padding; the index makes the order total.
        pending.sort(key=lambda i: (-len(tokens[i]), i))
        while pending:
            rows = self._fitting(len(tokens[pending[0]]) + sampling.max_new_tokens)
            chosen = pending[:rows]
            try:
                answers = self._batch([tokens[i] for i in chosen], sampling, [own[i] for i in chosen])
            except torch.OutOfMemoryError:
                self._shrink(len(chosen))
                continue
            pending = pending[rows:]
            for i, answer in zip(chosen, answers, strict=True):
                finished = bool(answer) and answer[-1] in self._ends
                results[i] = Generation(
                    self._decode(answer), len(answer), finished, len(tokens[i]), seed=own[i]
                )
            if progress:
                progress(len(chosen))
        return [result for result in results if result is not None]

    def _fitting(self, length: int) -> int:
        """Return how many sequences of `length` tokens, answers included, fit into memory: at least one."""
        return max(1, min(self._most_rows, self._memory // (self._row_bytes + length * self._token_bytes)))

    def _shrink(self, rows: int) -> None:
        """Take half the rows from now on, for these were too many.

        Raises:
            RegrowError: a single one was.
        """
        import torch

        if rows == 1:
            raise RegrowError(
                "self-data: the GPU's memory does not hold one prompt with its answer; lower "
                "self_data.max_new_tokens, or use the engine vllm with tensor_parallel_size"
            )
        self._most_rows = rows // 2
        torch.cuda.empty_cache()
        log.warning("out of GPU memory with %d sequences; going on with %d", rows, self._most_rows)

    def _batch(self, prompts: list[list[int]], sampling: Sampling, seeds: Sequence[int]) -> list[list[int]]:
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
        chances = _chances(seeds, sampling.max_new_tokens).to(device) if sampling.temperature else None
        answers: list[list[int]] = [[] for _ in prompts]
        rows = list(range(len(prompts)))  # row of the batch -> prompt
        alive = torch.ones(len(rows), dtype=torch.bool, device=device)
        cache = None
        with torch.inference_mode():
            for number in range(sampling.max_new_tokens):
                output = self._model(
                    input_ids=step,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache = output.past_key_values
                chance = None if chances is None else chances[:, number]
                chosen = _choose(output.logits[:, -1].float(), sampling, chance)
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
                    chances = None if chances is None else chances[keep]
                    rows = [rows[i] for i in keep.tolist()]
        return answers


def _chances(seeds: Sequence[int], count: int) -> "torch.Tensor":
    """Draw `count` numbers in [0, 1) for each seed: (seeds, count), float64.

    Each row has its own, so what it draws does not depend on the rows that share its batch.
    """
    import torch

    return torch.stack(
        [
            torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            for seed in seeds
        ]
    )


def _choose(logits: "torch.Tensor", sampling: Sampling, chance: "torch.Tensor | None") -> "torch.Tensor":
    """Pick the next token of each row.

    Args:
        logits: float32, (batch, vocabulary).
        sampling: temperature and nucleus.
        chance: float64 in [0, 1), (batch,): where on the cumulative distribution the token lies; None takes
            the likeliest.
    """
    import torch

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


def _footprint(model: Any) -> tuple[int, int]:
    """Estimate the bytes that a sequence takes in a batch: once, and for each of its tokens."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    cache = 2 * config.num_hidden_layers * groups * head_dim
    # What one block holds of every prompt token at one time.
    working = (
        2 * (getattr(config, "intermediate_size", None) or 4 * config.hidden_size) + 8 * config.hidden_size
    )
    # The logits of the last token, in float32 and some copies of it.
    return 16 * config.vocab_size, model.dtype.itemsize * (cache + working)


def _can_shrink(cache: Any) -> bool:
    # Recurrent states (Mamba and its kin) have no such method; there the ended rows stay until the end.
    layers = getattr(cache, "layers", None) or []
    return bool(layers) and all(hasattr(layer, "batch_select_indices") for layer in layers)
