"""The pruned model as a draft for the unpruned one: speculative decoding (Leviathan et al., arXiv 2211.17192).

The draft writes k tokens, the unpruned model (the target) reads them in one pass, keeps those that it would
have written itself and adds one of its own. Decoding is greedy, so what comes out is what the target alone
writes, token for token, in exact arithmetic; in bfloat16 a pass over several tokens rounds otherwise than a
pass over one, and near ties may part. The number of prompts whose output differs is reported.

It is transformers' assisted generation, one prompt at a time, with a constant k. What is counted is seen
from outside: hooks tell the tokens of every pass and the time it took, a streamer what each pass kept.

Of what is reported, c is the time of a draft's pass over the time of a target's, both for one token, and

- acceptance: drafted tokens that were kept, over drafted tokens;
- alpha: the chance that a token is kept if those before it were, as the paper's section 3.1 has it: kept
  over kept and turned down. Tokens behind the first that is turned down say nothing of it;
- predicted: the speed-up (1 - alpha^(k+1)) / ((1 - alpha) (k c + 1)) of its theorem 3.8, for which a pass over
  k + 1 tokens takes as long as one over a single token (`verify_cost` tells how much longer it took);
- break_even: the c below which the theorem promises a speed-up at all.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.evaluate import kept
from regrow.evaluate.answers import prompt_tokens, read_questions, settings
from regrow.evaluate.live import Live
from regrow.evaluate.spec import EvaluateSpec
from regrow.files import canonical_digest


class Drafting(BaseModel):
    """Decoding with a draft of k tokens."""

    model_config = ConfigDict(frozen=True)

    tokens: int = Field(description="k, tokens that are drafted at one time")
    passes: int = Field(description="forward passes of the target, those over the prompts among them")
    new_tokens: int = Field(description="tokens that came out")
    drafted: int = Field(description="tokens that were drafted")
    accepted: int = Field(description="drafted tokens that were kept")
    refused: int = Field(description="passes in which the target turned a drafted token down")
    differing: int = Field(description="prompts whose output is not what the target alone writes")
    verify_seconds: float | None = Field(description="median time of a target's pass over k + 1 tokens")
    rates: tuple[float, ...] = Field(description="new tokens per second in each round, prompts included")

    @property
    def acceptance(self) -> float:
        """Share of drafted tokens that were kept."""
        return self.accepted / self.drafted if self.drafted else 0.0

    @property
    def alpha(self) -> float:
        """Chance that a token is kept if those before it were."""
        looked_at = self.accepted + self.refused
        return self.accepted / looked_at if looked_at else 0.0


class Speculation(BaseModel):
    """A model as a draft for the unpruned one."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="what the draft is called in tables")
    draft: str = Field(description="digest of the draft")
    target: str = Field(description="digest of the unpruned model")
    prompts: int = Field(description="prompts that were continued, one at a time")
    rates: tuple[float, ...] = Field(description="tokens per second of the target alone in each round")
    target_seconds: float = Field(description="median time of a target's pass over one token")
    draft_seconds: float = Field(description="the same of the draft")
    runs: tuple[Drafting, ...] = Field(description="one for each k")
    settings: dict[str, Any] = Field(description="everything else that the figures depend on")

    @property
    def cost_ratio(self) -> float:
        """The paper's c."""
        return self.draft_seconds / self.target_seconds

    def summary(self) -> dict[str, Any]:
        """The figures in short; ratios of speed are taken within rounds."""
        return {
            "name": self.name,
            "prompts": self.prompts,
            "tokens_per_second": median(self.rates),
            "cost_ratio": self.cost_ratio,
            "drafts": {str(one.tokens): self._row(one) for one in self.runs},
        }

    def _row(self, one: Drafting) -> dict[str, Any]:
        ratios = [ours / alone for ours, alone in zip(one.rates, self.rates, strict=True)]
        return {
            "acceptance": one.acceptance,
            "alpha": one.alpha,
            "accepted_per_pass": one.accepted / one.passes,
            "tokens_per_second": median(one.rates),
            "speedup": {"value": median(ratios), "low": min(ratios), "high": max(ratios)},
            "predicted": speedup(one.alpha, one.tokens, self.cost_ratio),
            "break_even": break_even(one.alpha, one.tokens),
            "verify_cost": one.verify_seconds / self.target_seconds if one.verify_seconds else None,
            "differing": one.differing,
        }


def tokens_per_pass(alpha: float, tokens: int) -> float:
    """Return how many tokens a pass of the target yields on average, its own among them (equation 1)."""
    return float(sum(alpha**i for i in range(tokens + 1)))


def speedup(alpha: float, tokens: int, cost_ratio: float) -> float:
    """Return the speed-up that an acceptance promises (theorem 3.8)."""
    return tokens_per_pass(alpha, tokens) / (tokens * cost_ratio + 1)


def break_even(alpha: float, tokens: int) -> float:
    """Return the cost ratio at which the promised speed-up is 1: the tokens that a pass gains, for each drafted."""
    return (tokens_per_pass(alpha, tokens) - 1) / tokens


def draft_for(
    target: Checkpoint,
    draft: Checkpoint,
    spec: EvaluateSpec,
    cache: Path | None = None,
    *,
    name: str = "",
    live_target: Live | None = None,
    live: Live | None = None,
) -> Speculation:
    """Let a model draft for the unpruned one; both are in memory.

    Times in a cached result are those of the run that made it.

    Args:
        target: the unpruned model.
        draft: the model; has the same tokenizer.
        spec: the sections `draft` and `answers`, and dtype.
        cache: folder for results; nothing is kept if not given.
        name: what the draft is called in tables; the name of its folder if not given.
        live_target: the unpruned model where others use it loaded, too.
        live: the same of the draft.

    Raises:
        InputError: a section is missing, the tokenizers differ, or no prompt fits into the context.
    """
    asked = spec.draft
    if asked is None:
        raise InputError("evaluation.draft: is not given; say how the model drafts, for example draft: {}")
    questions = read_questions(spec)[: asked.limit]
    prompts = prompt_tokens(target, questions)
    if target.tokenizer().get_vocab() != draft.tokenizer().get_vocab():
        raise InputError(
            f"{draft.folder}: has another tokenizer than {target.folder}; it cannot draft for it"
        )
    key = {
        "target": target.digest,
        "draft": draft.digest,
        "prompts": canonical_digest(prompts),
        "spec": asked.model_dump(mode="json", exclude={"limit"}),
        **settings(target, spec.dtype),
    }
    path = kept.place(cache, draft, "draft", key)
    if found := kept.find(path, key, Speculation):
        return found.model_copy(update={"name": name or draft.folder.name})
    live_target = live_target or Live(target, spec.dtype)
    live = live or Live(draft, spec.dtype)
    config = target.config.get("text_config", target.config)
    room = (config.get("max_position_embeddings") or 2**31) - asked.new_tokens
    fitting = [ids for ids in prompts if len(ids) <= room]
    if not fitting:
        raise InputError("evaluation.draft: no prompt fits into the context; lower new_tokens")
    pair = _Pair(live_target.model, live.model, _ends(target), asked.new_tokens)
    result = _measure(pair, fitting, asked.tokens, asked.rounds)
    result = result.model_copy(
        update={"draft": draft.digest, "target": target.digest, "settings": key["spec"] | _common(key)}
    )
    kept.keep(path, key, result)
    return result.model_copy(update={"name": name or draft.folder.name})


def _common(key: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in key.items() if name not in ("target", "draft", "spec")}


def _ends(checkpoint: Checkpoint) -> list[int]:
    from regrow.selfdata.engines.base import end_tokens

    return sorted(end_tokens(checkpoint, checkpoint.tokenizer()))


class _Passes:
    """The forward passes of a model while it is watched: tokens read, and seconds."""

    def __init__(self) -> None:
        self.seen: list[tuple[list[int], float]] = []

    def times(self, width: int, *, first: int = 0) -> list[float]:
        """Seconds of the passes over so many tokens."""
        return [seconds for ids, seconds in self.seen[first:] if len(ids) == width]

    @contextmanager
    def of(self, model: Any) -> Iterator["_Passes"]:
        """Watch a model; each pass waits until the device is done."""
        began = 0.0

        def before(_: Any, args: Any, kwargs: Any) -> None:
            nonlocal began
            _wait(model)
            began = time.perf_counter()

        def after(_: Any, args: Any, kwargs: Any, output: Any) -> None:
            _wait(model)
            seconds = time.perf_counter() - began
            self.seen.append((kwargs["input_ids"][0].tolist(), seconds))

        hooks = [
            model.register_forward_pre_hook(before, with_kwargs=True),
            model.register_forward_hook(after, with_kwargs=True),
        ]
        try:
            yield self
        finally:
            for hook in hooks:
                hook.remove()


def _wait(model: Any) -> None:
    if model.device.type == "cuda":
        import torch

        torch.cuda.synchronize()


class _Pair:
    """A target and its draft."""

    def __init__(self, target: Any, draft: Any, ends: list[int], new_tokens: int) -> None:
        from transformers import GenerationConfig

        self.target, self.draft = target, draft
        # Its own settings (penalties, sampling) would not be greedy decoding.
        common = {
            "do_sample": False,
            "max_new_tokens": new_tokens,
            "eos_token_id": ends or None,
            "pad_token_id": ends[0] if ends else 0,
        }
        self.target.generation_config = GenerationConfig(**common)
        self._common = common

    def alone(self, prompt: Sequence[int]) -> list[int]:
        """Return what the target writes by itself."""
        return self._generate(prompt)

    def together(self, prompt: Sequence[int], tokens: int, streamer: Any = None) -> list[int]:
        """Return what the target writes with the draft's help."""
        from transformers import GenerationConfig

        self.draft.generation_config = GenerationConfig(
            **self._common,
            num_assistant_tokens=tokens,
            num_assistant_tokens_schedule="constant",
            assistant_confidence_threshold=0.0,
        )
        return self._generate(prompt, assistant_model=self.draft, streamer=streamer)

    def _generate(self, prompt: Sequence[int], **more: Any) -> list[int]:
        import torch

        ids = torch.tensor([list(prompt)], device=self.target.device)
        with torch.inference_mode():
            output = self.target.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **more)
        written: list[int] = output[0, len(prompt) :].tolist()
        return written


def _measure(
    pair: _Pair, prompts: Sequence[Sequence[int]], counts: Sequence[int], rounds: int
) -> Speculation:
    """Count once, watched; then time, unwatched and in turns."""
    watched = _Passes()
    with watched.of(pair.target):
        expected = [pair.alone(prompt) for prompt in prompts]
    drafts = _Passes()
    with drafts.of(pair.draft):
        runs = [_count(pair, prompts, expected, tokens) for tokens in counts]
    alone: list[float] = []
    together: list[list[float]] = [[] for _ in counts]
    for _ in range(rounds):
        alone.append(_rate([lambda prompt=prompt: pair.alone(prompt) for prompt in prompts]))
        for rates, tokens in zip(together, counts, strict=True):
            rates.append(
                _rate([lambda prompt=prompt, k=tokens: pair.together(prompt, k) for prompt in prompts])
            )
    # A draft that had all its tokens kept begins with two; with k = 1 that may be every time.
    steps = drafts.times(1) or drafts.times(2)
    return Speculation(
        name="",
        draft="",
        target="",
        prompts=len(prompts),
        rates=tuple(alone),
        target_seconds=median(watched.times(1) or [seconds for _, seconds in watched.seen]),
        draft_seconds=median(steps or [seconds for _, seconds in drafts.seen]),
        runs=tuple(
            run.model_copy(update={"rates": tuple(rates)}) for run, rates in zip(runs, together, strict=True)
        ),
        settings={},
    )


def _count(
    pair: _Pair, prompts: Sequence[Sequence[int]], expected: Sequence[list[int]], tokens: int
) -> Drafting:
    passes = new = drafted = accepted = refused = differing = 0
    verify: list[float] = []
    for prompt, wanted in zip(prompts, expected, strict=True):
        watched, keeper = _Passes(), _keeper()
        with watched.of(pair.target):
            wrote = pair.together(prompt, tokens, keeper)
        differing += wrote != wanted
        new += len(wrote)
        passes += len(watched.seen)
        for number, ((ids, _), valid) in enumerate(zip(watched.seen, keeper.parts[1:], strict=True)):
            guessed = ids[len(prompt) if number == 0 else 1 :]
            kept_here = _common_prefix(guessed, valid)
            drafted += len(guessed)
            accepted += kept_here
            # Where the answer ends within the draft, the target said nothing of the tokens behind.
            refused += kept_here < min(len(guessed), len(valid))
        verify += watched.times(tokens + 1, first=1)
    return Drafting(
        tokens=tokens,
        passes=passes,
        new_tokens=new,
        drafted=drafted,
        accepted=accepted,
        refused=refused,
        differing=differing,
        verify_seconds=median(verify) if verify else None,
        rates=(),
    )


def _keeper() -> Any:
    """Return a streamer that keeps what each pass of the target added; first comes the prompt."""
    from transformers.generation.streamers import BaseStreamer

    class Keeper(BaseStreamer):  # type: ignore[misc]
        def __init__(self) -> None:
            self.parts: list[list[int]] = []

        def put(self, value: Any) -> None:
            self.parts.append(value.flatten().tolist())

        def end(self) -> None:
            return

    return Keeper()


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    for i, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return i
    return min(len(left), len(right))


def _rate(works: Sequence[Any]) -> float:
    """Return the tokens per second of some generations, one after the other."""
    began = time.perf_counter()
    tokens = sum(len(work()) for work in works)
    return tokens / (time.perf_counter() - began)
