"""Generation by vLLM in this process, for machines that have it (the GPU image).

vLLM batches by itself: a sequence that has ended makes room for the next at once. Prompts are rendered and
tokenized here, as for every engine.
"""

import itertools
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from regrow.errors import InputError, RegrowError
from regrow.selfdata.engines.base import Engine, Generation, Request, Sampling
from regrow.selfdata.engines.spec import VllmSpec

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint


class VllmEngine(Engine):
    """Generation by vLLM.

    Args:
        checkpoint: the model.
        spec: how vLLM is set up.

    Raises:
        InputError: vLLM is not installed here, or cannot load the model.
    """

    name = "vllm"

    def __init__(self, checkpoint: "Checkpoint", spec: VllmSpec) -> None:
        try:
            from vllm import LLM
        except ImportError as error:
            raise InputError(
                f"self_data.engine: vllm cannot be imported here ({error}); install vllm, serve the model and use the "
                "engine `endpoint`, or use `transformers`"
            ) from None
        super().__init__(checkpoint)
        self._context = min(self._context, spec.max_model_len or self._context)
        self.in_flight = spec.max_num_seqs
        try:
            llm = LLM(
                model=str(checkpoint.folder),
                max_model_len=self._context,
                max_num_seqs=spec.max_num_seqs,
                gpu_memory_utilization=spec.gpu_memory_utilization,
                tensor_parallel_size=spec.tensor_parallel_size,
                dtype=spec.dtype,
                enforce_eager=spec.enforce_eager,
                trust_remote_code=False,
            )
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"{checkpoint.folder}: vLLM cannot load it ({' '.join(str(error).split())[:300]})"
            ) from error
        # `LLM.generate` returns when its last answer has ended, so the batch would run empty at the end of each call.
        # Calls put their requests into one queue instead, and whichever holds the lock moves all of them forward.
        self._engine: Any = llm.llm_engine
        self._numbers = itertools.count()
        self._queue: deque[tuple[str, Any, Any]] = deque()
        self._finished: dict[str, Any] = {}
        self._stepping = threading.Lock()
        self._closed = False

    def close(self) -> None:
        """Step no further; every call that waits ends with an error."""
        self._closed = True

    def _continue(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[Request, Generation]]:
        waiting = {str(next(self._numbers)): request for request in requests}
        self._queue.extend(
            (name, {"prompt_token_ids": request.prompt}, self._settings(sampling, request.seed))
            for name, request in waiting.items()
        )
        while waiting:
            if self._closed:
                raise RegrowError("stopped")
            with self._stepping:
                if self._finished.keys().isdisjoint(waiting):
                    self._step()
                done = {name: self._finished.pop(name) for name in list(waiting) if name in self._finished}
            for name, output in done.items():
                answer, request = output.outputs[0], waiting.pop(name)
                yield (
                    request,
                    self._written(request, answer.token_ids, finished=answer.finish_reason == "stop"),
                )

    def _step(self) -> None:
        """Hand over what has come in, and let every sequence grow by a token; the lock must be held."""
        while self._queue:
            self._engine.add_request(*self._queue.popleft())
        self._finished |= {one.request_id: one for one in self._engine.step() if one.finished}

    def _settings(self, sampling: Sampling, seed: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            max_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=None if seed < 0 else seed,
            stop_token_ids=sorted(self._ends),
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
