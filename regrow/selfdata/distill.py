"""Self-data distillation: the unpruned model's own words for every reference answer.

The unpruned model writes each answer anew (`prompts`, `engine`); `rule` says whether the rewrite takes the
reference's place. The work is done in shards that are written when finished, so a killed run goes on
where it was and gives the records that an unbroken run gives.
"""

import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from regrow.device import device
from regrow.errors import InputError
from regrow.files import canonical_digest
from regrow.selfdata import prompts, rule, store
from regrow.selfdata.engines import EndpointSpec, Engine, Generation, Sampling, VllmSpec
from regrow.selfdata.rule import BANNED_PHRASES, OVERLONG, REWRITTEN
from regrow.selfdata.store import SelfData

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint
    from regrow.records import Record

log = logging.getLogger(__name__)


class SelfDataSpec(BaseModel):
    """How the unpruned model is asked to rewrite a set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str = Field(
        "auto", description="auto (the family's own), a packaged template's name, or a file"
    )
    use_reference: bool = Field(True, description="show the reference answer to the model that rewrites")
    max_new_tokens: int = Field(256, ge=1, description="longest rewrite, in tokens")
    temperature: float = Field(0.0, ge=0.0, description="softmax temperature of sampling; 0 is greedy")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="nucleus: probability mass that is sampled from")
    attempts: int = Field(
        1, ge=1, le=64, description="tries per record; with several the first one is greedy"
    )
    batch_size: int = Field(32, ge=1, description="most sequences in a batch")
    shard_size: int = Field(64, ge=1, description="records per shard: what a killed run can lose")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of sampling")
    engine: Literal["transformers", "vllm", "endpoint"] = Field(
        "transformers",
        description="what generates: transformers or vLLM in this process, or an OpenAI-compatible server",
    )
    endpoint: EndpointSpec | None = Field(None, description="the server of the engine `endpoint`")
    vllm: VllmSpec = Field(default_factory=lambda: VllmSpec(), description="settings of the engine `vllm`")
    banned_phrases: tuple[str, ...] = Field(
        BANNED_PHRASES, description="a rewrite with one of these (whole words, any case) is not accepted"
    )

    @model_validator(mode="after")
    def _the_engine_has_its_settings(self) -> "SelfDataSpec":
        if (self.engine == "endpoint") != (self.endpoint is not None):
            raise ValueError(
                "endpoint: the engine `endpoint` needs the server's url and model, the others none"
            )
        return self

    @model_validator(mode="after")
    def _attempts_must_differ(self) -> "SelfDataSpec":
        if self.attempts > 1 and not self.temperature:
            raise ValueError("attempts above 1 need temperature > 0; greedy tries are all the same")
        return self


def distill(
    checkpoint: "Checkpoint",
    records: Sequence["Record"],
    family: str,
    spec: SelfDataSpec,
    out: Path,
    work: Path | None = None,
) -> SelfData:
    """Let a model rewrite the reference answers of a set.

    Args:
        checkpoint: the unpruned model; needs a chat template.
        records: what to rewrite; the result keeps their order.
        family: choice, math, text or open: how final answers are compared.
        spec: template, decoding and engine.
        out: the folder to write; appears whole, replaces an earlier one.
        work: where finished shards live; the same folder on a later run continues it. By default a
            hidden sibling of `out` that goes when `out` is there.

    Raises:
        InputError: no records, duplicate ids, an unusable template, a model without chat template.
    """
    _check(records)
    template = prompts.load_template(spec.template, family, use_reference=spec.use_reference)
    shards = out.parent / f".{out.name}.work" if work is None else work
    rewriter = _Rewriter(checkpoint, family, spec, template)
    rows: list[dict[str, Any]] = []
    tokens, seconds, reused = 0, 0.0, 0
    with _bar(len(records)) as bar:
        for number, start in enumerate(range(0, len(records), spec.shard_size)):
            part = records[start : start + spec.shard_size]
            file = shards / f"shard-{number:05d}-{rewriter.key(part, number)[:16]}.jsonl"
            shard = store.read_shard(file, part)
            if shard is None:
                shard = rewriter.shard(part, number, bar.update)
                store.write_shard(file, *shard)
            else:
                reused += 1
                bar.update(len(part))
            header, done = shard
            rows += done
            tokens, seconds = tokens + header["tokens"], seconds + header["seconds"]
            bar.set_postfix(accepted=f"{rule.acceptance_rate(rows):.0%}")
    details = {
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
        "shards": number + 1,
        "shards_reused": reused,
        "family": family,
        "template": template.name,
        "use_reference": spec.use_reference,
        "engine": spec.engine,
        "seed": spec.seed,
        "model": checkpoint.digest,
        "spec": spec.model_dump(mode="json"),
    }
    data = store.save(rows, details, out)
    if work is None:
        shutil.rmtree(shards, ignore_errors=True)
    log.info("%s: %d records, %.1f%% rewritten", out.name, len(rows), 100 * rule.acceptance_rate(rows))
    return data


class _Rewriter:
    """Turns shards of records into rows; loads the model when the first shard needs it."""

    def __init__(
        self, checkpoint: "Checkpoint", family: str, spec: SelfDataSpec, template: prompts.Template
    ) -> None:
        self._checkpoint, self._family, self._spec, self._template = checkpoint, family, spec, template
        self._loaded: Engine | None = None
        self._settings = {
            "format": 1,
            "model": checkpoint.digest,
            "spec": spec.model_dump(mode="json", exclude=_NOT_IN_KEY),
            "template": [template.system, template.user, template.assistant],
            "family": family,
            "runtime": _runtime(checkpoint, spec),
        }

    def key(self, part: Sequence["Record"], number: int) -> str:
        """Digest everything that the shard's rows depend on."""
        content = [{name: getattr(record, name) for name in _FROM_RECORD} for record in part]
        return canonical_digest(self._settings | {"number": number, "records": content})

    def shard(
        self, part: Sequence["Record"], number: int, progress: Callable[[int], Any]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Generate for one shard; returns its header (tokens, seconds) and its rows."""
        engine, prefix = self._engine(), self._template.assistant
        banned = self._spec.banned_phrases
        began = time.perf_counter()
        texts = [engine.render(self._template.messages(record), prefix) for record in part]
        results: list[tuple[Generation, str, int] | None] = [None] * len(part)
        pending, tokens = list(range(len(part))), 0
        for attempt in range(self._spec.attempts):
            sampling = self._sampling(attempt, number)
            # Only the first round moves the bar: every record is in it once.
            wrote = engine.generate([texts[i] for i in pending], sampling, progress if attempt == 0 else None)
            tokens += sum(generation.tokens for generation in wrote)
            for i, generation in zip(pending, wrote, strict=True):
                decision = rule.judge(generation, prefix, part[i].answer, self._family, banned)
                results[i] = (generation, decision, attempt + 1)
            pending = [
                i for i in pending if (result := results[i]) and result[1] not in (REWRITTEN, OVERLONG)
            ]
            if not pending:
                break
        rows = [
            self._row(record, *result)
            for record, result in zip(part, results, strict=True)
            if result is not None
        ]
        return {"tokens": tokens, "seconds": round(time.perf_counter() - began, 3)}, rows

    def _engine(self) -> Engine:
        if self._loaded is None:
            self._loaded = _start(self._checkpoint, self._spec)
        return self._loaded

    def _sampling(self, attempt: int, number: int) -> Sampling:
        greedy = self._spec.attempts > 1 and attempt == 0
        return Sampling(
            max_new_tokens=self._spec.max_new_tokens,
            temperature=0.0 if greedy else self._spec.temperature,
            top_p=self._spec.top_p,
            # Distinct for every (seed, shard, attempt), so that no two batches share their random numbers.
            seed=(self._spec.seed * 100_003 + number) * 64 + attempt,
        )

    def _row(self, record: "Record", generation: Generation, decision: str, attempts: int) -> dict[str, Any]:
        response = record.reference
        if decision == REWRITTEN:
            response = rule.join(self._template.assistant, generation.text)
        return {name: getattr(record, name) for name in _FROM_RECORD} | {
            "response": response,
            "engine": self._spec.engine,
            "decision": decision,
            "attempts": attempts,
            "prompt_tokens": generation.prompt_tokens,
            "response_tokens": self._engine().count(response),
            "seed": generation.seed,
        }


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


# The template counts by its text; a server by the model that it serves, wherever it is now.
_NOT_IN_KEY: Any = {
    "template": True,
    "endpoint": {"url", "in_flight", "timeout", "retries", "api_key_env"},
    "vllm": {"gpu_memory_utilization"},
}
_FROM_RECORD = ("id", "instruction", "input", "reference", "answer", "source")


def _check(records: Sequence["Record"]) -> None:
    if not records:
        raise InputError("self-data: the dataset has no records; check its source, adapter and limit")
    twice = [name for name, count in Counter(record.id for record in records).items() if count > 1]
    if twice:
        raise InputError(f"self-data: record id {twice[0]} occurs twice; ids must be unique")


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


def _bar(total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="self-data", unit="answer", dynamic_ncols=True)
