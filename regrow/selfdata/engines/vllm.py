"""Generation by vLLM in this process, for machines that have it (the GPU image).

vLLM batches by itself and frees ended sequences at once. Prompts are rendered and tokenized here, as for
every engine.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from regrow.errors import InputError
from regrow.selfdata.engines.base import ChatPrompts, Generation, Sampling
from regrow.selfdata.engines.spec import VllmSpec

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint


class VllmEngine(ChatPrompts):
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
        try:
            self._llm: Any = LLM(
                model=str(checkpoint.folder),
                max_model_len=self._context,
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

    def generate(
        self, texts: Sequence[str], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[Generation]:
        """Continue each prompt; see `Engine.generate`."""
        from vllm import SamplingParams

        tokens = self._encode(texts)
        results = self._overlong(tokens, sampling.max_new_tokens, progress)
        pending = [i for i, result in enumerate(results) if result is None]
        seeds = [(sampling.seed * 1_000_003 + i) % 2**31 if sampling.temperature else -1 for i in pending]
        settings = [
            SamplingParams(
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=None if seed < 0 else seed,
                stop_token_ids=sorted(self._ends),
            )
            for seed in seeds
        ]
        outputs = self._llm.generate(
            [{"prompt_token_ids": tokens[i]} for i in pending], settings, use_tqdm=False
        )
        for i, seed, output in zip(pending, seeds, outputs, strict=True):
            answer = output.outputs[0]
            text = self._tokenizer.decode(answer.token_ids, skip_special_tokens=True)
            results[i] = Generation(
                str(text),
                len(answer.token_ids),
                finished=answer.finish_reason == "stop",
                prompt_tokens=len(tokens[i]),
                seed=seed,
            )
        if progress:
            progress(len(pending))
        return [result for result in results if result is not None]
