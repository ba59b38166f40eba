"""From a shard of records to its rows: prompts, tries, the rule."""

import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from regrow.device import device
from regrow.files import canonical_digest
from regrow.selfdata import prompts, rule
from regrow.selfdata.engines import Engine, Generation, Sampling
from regrow.selfdata.rule import OVERLONG, REWRITTEN
from regrow.selfdata.spec import SelfDataSpec

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint
    from regrow.records import Record

_FROM_RECORD = ("id", "instruction", "input", "reference", "answer", "source")
# The template counts by its text; a server by the model that it serves, wherever it is now.
_NOT_IN_KEY: Any = {
    "template": True,
    "endpoint": {"url", "in_flight", "timeout", "retries", "api_key_env"},
    "vllm": {"gpu_memory_utilization"},
}


class Rewriter:
    """Turns shards of records into rows.

    Args:
        checkpoint: the unpruned model; needs a chat template.
        family: choice, math, text or open.
        spec: decoding and engine.
        template: what the model is asked.
    """

    def __init__(
        self, checkpoint: "Checkpoint", family: str, spec: SelfDataSpec, template: prompts.Template
    ) -> None:
        self._checkpoint, self._family, self._spec, self._template = checkpoint, family, spec, template
        self._engine: Engine | None = None
        self._settings = {
            "format": 3,
            "model": checkpoint.digest,
            "spec": spec.model_dump(mode="json", exclude=_NOT_IN_KEY),
            "template": [template.system, template.user, template.assistant],
            "family": family,
            "rule": rule.version(),
            "runtime": _runtime(checkpoint, spec),
        }

    def key(self, part: Sequence["Record"]) -> str:
        """Digest everything that the rows of a shard depend on."""
        content = [{name: getattr(record, name) for name in _FROM_RECORD} for record in part]
        return canonical_digest(self._settings | {"records": content})

    def start(self) -> int:
        """Load the engine; returns how many shards it works on at one time."""
        self._engine = _start(self._checkpoint, self._spec)
        # As many as keep it full while the last answers of one shard come in, and another begins.
        return 2 + self._engine.in_flight // self._spec.shard_size if self._engine.in_flight else 1

    def stop(self) -> None:
        """Give up the shards that other threads are making."""
        if self._engine is not None:
            self._engine.close()

    def shard(
        self, part: Sequence["Record"], progress: Callable[[int], Any]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Generate for one shard; returns its header and its rows.

        The header has `tokens`, all that were generated, and `began` (seconds since 1970) and `seconds`.
        """
        engine, prefix = self._started(), self._template.assistant
        began = time.time()
        texts = [engine.render(self._template.messages(record), prefix) for record in part]
        results: dict[int, tuple[Generation, str, int]] = {}
        pending, tokens = list(range(len(part))), 0
        for attempt in range(self._spec.attempts):
            wrote = engine.generate(
                [texts[i] for i in pending],
                self._sampling(attempt),
                [_seed(self._spec.seed, part[i].id, attempt) for i in pending],
                # Only the first round moves the bar: every record is in it once.
                progress if attempt == 0 else None,
            )
            tokens += sum(generation.tokens for generation in wrote)
            for i, generation in zip(pending, wrote, strict=True):
                decision = rule.judge(
                    generation, prefix, part[i].answer, self._family, self._spec.banned_phrases
                )
                results[i] = (generation, decision, attempt + 1)
            pending = [i for i in pending if results[i][1] not in (REWRITTEN, OVERLONG)]
            if not pending:
                break
        rows = [self._row(record, *results[i]) for i, record in enumerate(part)]
        return {"tokens": tokens, "began": began, "seconds": round(time.time() - began, 3)}, rows

    def _started(self) -> Engine:
        if self._engine is None:
            self.start()
        assert self._engine is not None
        return self._engine

    def _sampling(self, attempt: int) -> Sampling:
        greedy = self._spec.attempts > 1 and attempt == 0
        return Sampling(
            max_new_tokens=self._spec.max_new_tokens,
            temperature=0.0 if greedy else self._spec.temperature,
            top_p=self._spec.top_p,
        )

    def _row(self, record: "Record", generation: Generation, decision: str, attempts: int) -> dict[str, Any]:
        written = rule.join(self._template.assistant, generation.text) if generation.text else ""
        response = written if decision == REWRITTEN else record.reference
        return {name: getattr(record, name) for name in _FROM_RECORD} | {
            "response": response,
            "rewrite": written,
            "engine": self._spec.engine,
            "decision": decision,
            "attempts": attempts,
            "prompt_tokens": generation.prompt_tokens,
            "response_tokens": self._started().count(response),
            "seed": generation.seed,
        }


def _seed(run: int, record: str, attempt: int) -> int:
    """Return the seed of one try: below 2**31, and the same wherever the record stands in the set."""
    return int.from_bytes(sha256(f"{run}/{record}/{attempt}".encode()).digest()[:4]) >> 1


def _start(checkpoint: "Checkpoint", spec: SelfDataSpec) -> Engine:
    if spec.engine == "endpoint":
        from regrow.selfdata.engines.endpoint import EndpointEngine

        assert spec.endpoint is not None
        return EndpointEngine(checkpoint, spec.endpoint)
    if spec.engine == "vllm":
        from regrow.selfdata.engines.vllm import VllmEngine

        return VllmEngine(checkpoint, spec.vllm)
    from regrow.selfdata.engines import TransformersEngine

    return TransformersEngine(checkpoint, batch_size=spec.batch_size)


def _runtime(checkpoint: "Checkpoint", spec: SelfDataSpec) -> dict[str, str]:
    # Another version, device or type may decode differently; its shards are not mixed with these.
    from importlib.metadata import packages_distributions, version

    import torch

    if spec.engine == "endpoint":
        return {}  # the server does not say
    names = ["torch", "transformers"]
    if spec.engine == "vllm":
        names += packages_distributions().get("vllm", [])  # vllm, or a build of it by another name
    return {name: version(name) for name in names} | {
        "device": torch.cuda.get_device_name() if device() == "cuda" else "cpu",
        "dtype": str(checkpoint.compute_dtype()),
    }
