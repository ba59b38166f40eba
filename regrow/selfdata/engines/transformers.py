"""Generation by transformers, in this process, in batches.

Greedy or sampled decoding with a key-value cache. Sequences that have ended leave the batch and waiting ones
take their places, so a long answer does not make the short ones pay. The same prompts, settings and machine give
the same texts.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from regrow.device import free_memory
from regrow.errors import RegrowError
from regrow.selfdata.engines.base import Engine, Generation, Request, Sampling

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint

log = logging.getLogger(__name__)

# Share of the rows that must have ended before the batch is put together anew.
_WORTH_IT = 0.25
# Beyond this many rows a CPU gets no faster, measured; a GPU does until its memory is full.
_MOST_ROWS = {"cpu": 64, "cuda": 512}


class TransformersEngine(Engine):
    """Generation in this process.

    Args:
        checkpoint: the model; on CUDA when there is one.
        batch_size: most sequences in a batch; None takes what fits into the memory that is free.
        model: the checkpoint's model where it is loaded already.
    """

    name = "transformers"
    in_flight = 0

    def __init__(self, checkpoint: "Checkpoint", *, batch_size: int | None = None, model: Any = None) -> None:
        super().__init__(checkpoint)
        self._model: Any = checkpoint.load() if model is None else model
        self._most_rows = batch_size or _MOST_ROWS[self._model.device.type]
        self._row_bytes, self._token_bytes = _footprint(self._model)
        # The allocator needs slack, and a CPU's memory belongs to other processes too.
        self._memory = int(free_memory() * (0.8 if self._model.device.type == "cuda" else 0.5))

    def _continue(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[Request, Generation]]:
        import torch

        from regrow.selfdata.engines.batch import RunningBatch

        # Neighbours of like length waste the least padding; the number makes the order total.
        waiting = deque(sorted(requests, key=lambda one: (-len(one.prompt), one.number)))
        batch = RunningBatch(self._model, self._ends, sampling)
        while waiting or batch:
            most = self._fitting(
                max(len(request.prompt) for request in (*batch.requests, *list(waiting)[:1]))
                + sampling.max_new_tokens
            )
            # Joining and leaving copy the cache, so they must be worth a good part of the work.
            few = len(batch) <= (1 - _WORTH_IT) * most
            room = min(most - len(batch), len(waiting)) if few and batch.can_join else 0
            joining = [waiting.popleft() for _ in range(room)]
            try:
                with torch.inference_mode():
                    if joining:
                        batch.add(joining)
                    else:
                        batch.step()
                    ended = batch.leave() if batch.alive <= (1 - _WORTH_IT) * len(batch) else []
            except torch.OutOfMemoryError:
                begun = {request.number: request for request in (*batch.requests, *joining)}
                self._shrink(len(begun))
                waiting.extendleft(reversed(begun.values()))
                batch = RunningBatch(self._model, self._ends, sampling)
                continue
            for request, answer in ended:
                yield request, self._written(request, answer, finished=answer[-1] in self._ends)

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
