"""How far a model has moved from the unpruned one, beside what it scores.

On questions that both answer in their own words:

- similarity: cosine of the sentence embeddings of the two answers (the paper, arXiv 2410.09982, gives 0.92
  for self-data distillation and 0.83 for fine-tuning; its encoder and questions are not known here);
- agreement: share of the tokens of the unpruned model's answer at which both models hold the same token for
  the likeliest;
- divergence: KL(unpruned || model) at these tokens, in nats, over the whole vocabulary.

The last two read the unpruned model's answer with both models (teacher forcing), so one early difference
does not count again at every later token. Both models are in memory for it: storing the log-probabilities
of the unpruned one instead would take vocabulary x 4 bytes a token. Logits exist for a chunk of positions
at a time.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.evaluate import kept
from regrow.evaluate.answers import Answers, answers
from regrow.evaluate.health import Health, health
from regrow.evaluate.live import Live
from regrow.evaluate.resample import DRAWS, interval
from regrow.evaluate.spec import EvaluateSpec

# Logits (positions x vocabulary) of one model at one time: 64 MiB in float32.
_BUDGET = 2**24


class Estimate(BaseModel):
    """A mean and its 95 % percentile bootstrap interval over questions."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float | None = Field(description="2.5th percentile; null for a single question")
    high: float | None = Field(description="97.5th percentile")


class Drift(BaseModel):
    """A model against the unpruned one, question by question; the lists run alike."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    name: str = Field(description="what the model is called in tables")
    model: str = Field(description="digest of the model")
    base: str = Field(description="digest of the unpruned model")
    questions: str = Field(description="digest of the questions")
    skipped: int = Field(description="questions that do not fit into the context, in none of the lists")
    encoder: str | None = Field(description="source of the encoder")
    similarity: tuple[float, ...] | None = Field(description="cosine of the two answers' embeddings")
    same: tuple[bool, ...] = Field(description="whether the two answers are the same text")
    tokens: tuple[int, ...] = Field(description="tokens of the unpruned model's answer, end token included")
    agreement: tuple[float, ...] = Field(description="share of these tokens with the same likeliest token")
    kl: tuple[float, ...] = Field(description="mean KL(unpruned || model) at these tokens, in nats")
    health: Health = Field(description="of the model's own answers")
    base_health: Health = Field(description="of the unpruned model's")
    settings: dict[str, Any] = Field(description="everything else that the figures depend on")

    def estimates(self) -> dict[str, Estimate]:
        """Similarity over questions, agreement and KL over tokens, with intervals over questions."""
        found = {"similarity": estimate(self.similarity)} if self.similarity else {}
        return found | {
            "agreement": estimate(self.agreement, self.tokens),
            "kl": estimate(self.kl, self.tokens),
        }

    def summary(self) -> dict[str, Any]:
        """The figures in short; null where they are not finite, for JSON has no infinity."""
        return {
            "name": self.name,
            "questions": len(self.tokens),
            "tokens": sum(self.tokens),
            **{name: _finite(one.model_dump()) for name, one in self.estimates().items()},
            "same_answers": sum(self.same) / len(self.same),
            "health": self.health.model_dump(exclude={"answers"}),
            "base_health": self.base_health.model_dump(exclude={"answers"}),
        }


def _finite(numbers: dict[str, float | None]) -> dict[str, float | None]:
    return {
        name: None if value is None or not math.isfinite(value) else value for name, value in numbers.items()
    }


def estimate(
    values: Sequence[float], weights: Sequence[float] | None = None, *, draws: int = DRAWS, seed: int = 0
) -> Estimate:
    """Return a (weighted) mean with its percentile bootstrap interval over the values.

    Args:
        values: one a question.
        weights: what each counts, such as its tokens; drawn together with it. All the same if not given.
        draws: bootstrap draws.
        seed: seed of the draws.
    """
    import numpy as np

    heavy = np.asarray(weights if weights is not None else np.ones(len(values)), dtype=np.float64)
    each = np.asarray(values, dtype=np.float64)
    value = float((each * heavy).sum() / heavy.sum())
    if len(each) < 2 or not math.isfinite(value):
        return Estimate(value=value, low=None, high=None)
    random = np.random.default_rng(seed)
    drawn = np.empty(draws)
    step = max(1, 2**21 // len(each))
    for begin in range(0, draws, step):
        counts = random.multinomial(
            len(each), np.full(len(each), 1 / len(each)), size=min(step, draws - begin)
        )
        drawn[begin : begin + step] = (counts @ (each * heavy)) / (counts @ heavy)
    low, high = interval(drawn)
    return Estimate(value=value, low=low, high=high)


def drift(
    base: Checkpoint,
    model: Checkpoint,
    spec: EvaluateSpec,
    cache: Path | None = None,
    *,
    name: str = "",
    live_base: Live | None = None,
    live: Live | None = None,
) -> Drift:
    """Measure how far a model has moved from the unpruned one.

    Args:
        base: the unpruned model.
        model: the model; the unpruned one itself has similarity and agreement 1 and divergence 0.
        spec: the section `answers`, and dtype.
        cache: folder for answers and results; nothing is kept if not given.
        name: what the model is called in tables; the name of its folder if not given.
        live_base: the unpruned model where others use it loaded, too.
        live: the same of the model.

    Raises:
        InputError: no section `answers`, models with different tokenizers, or a set, encoder or model that
            cannot be used.
    """
    live_base = live_base or Live(base, spec.dtype)
    live = live_base if model.digest == base.digest else live or Live(model, spec.dtype)
    theirs = answers(base, spec, cache, live_base)
    ours = theirs if model.digest == base.digest else answers(model, spec, cache, live)
    assert spec.answers is not None
    if ours.prompts != theirs.prompts:
        raise InputError(
            f"{model.folder}: reads the questions in other tokens than {base.folder}; both need one tokenizer and "
            "one chat template"
        )
    encoder = spec.answers.encoder
    key = {
        "model": model.digest,
        "base": base.digest,
        "questions": theirs.questions,
        "encoder": encoder.model_dump(mode="json") if encoder else None,
        **theirs.settings,
    }
    path = kept.place(cache, model, "drift", key)
    if found := kept.find(path, key, Drift):
        return found.model_copy(update={"name": name or model.folder.name})
    result = _compare(ours, theirs, live, live_base, spec)
    kept.keep(path, key, result)
    return result.model_copy(update={"name": name or model.folder.name})


def _compare(ours: Answers, theirs: Answers, live: Live, live_base: Live, spec: EvaluateSpec) -> Drift:
    from regrow.meaning import cosines

    assert spec.answers is not None
    pairs = [
        (mine, reference, prompt)
        for mine, reference, prompt in zip(ours.items, theirs.items, ours.prompts, strict=True)
        if not (mine.overlong or reference.overlong)
    ]
    if not pairs:
        raise InputError(
            "evaluation.answers: no question fits into the model's context; lower max_new_tokens or choose others"
        )
    encoder = spec.answers.encoder
    agreement, kl = _divergence(
        live_base.model,
        live.model,
        [(prompt, reference.ids) for _, reference, prompt in pairs],
        spec.answers.batch_size,
    )
    return Drift(
        name="",
        model=ours.model,
        base=theirs.model,
        questions=theirs.questions,
        skipped=len(ours.items) - len(pairs),
        encoder=encoder.source if encoder else None,
        similarity=tuple(
            cosines(
                [one.text for one, _, _ in pairs],
                [one.text for _, one, _ in pairs],
                encoder,
                "evaluation.answers.encoder",
            )
        )
        if encoder
        else None,
        same=tuple(mine.text == reference.text for mine, reference, _ in pairs),
        tokens=tuple(len(reference.ids) for _, reference, _ in pairs),
        agreement=tuple(agreement),
        kl=tuple(kl),
        health=health(ours.items),
        base_health=health(theirs.items),
        settings=ours.settings,
    )


def _divergence(
    base: Any, model: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int
) -> tuple[list[float], list[float]]:
    """Return the agreement and the mean KL(base || model) over the answer's tokens of each row.

    Args:
        base: the unpruned model.
        model: the other.
        rows: tokens of the question, tokens of the answer.
        batch_size: rows in one forward pass.
    """
    import torch
    from tqdm import tqdm

    agreement, kl = [0.0] * len(rows), [0.0] * len(rows)
    # Rows of like length, so that little is padded.
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i][0]) - len(rows[i][1]), i))
    with torch.inference_mode(), tqdm(total=len(rows), desc="drift", unit="answer") as bar:
        for start in range(0, len(rows), batch_size):
            chosen = order[start : start + batch_size]
            found = _batch(base, model, [rows[i] for i in chosen])
            for i, (same, divergence) in zip(chosen, found, strict=True):
                agreement[i], kl[i] = same, divergence
            bar.update(len(chosen))
    return agreement, kl


def _batch(base: Any, model: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Any]:
    import torch

    from regrow.tune.losses import head_of

    whole = [[*prompt, *answer] for prompt, answer in rows]
    width = max(map(len, whole))
    # Padding stands at the end, where no token of a causal model can see it.
    ids = torch.tensor([row + [0] * (width - len(row)) for row in whole])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in whole])
    # The states that tell the answer's tokens: each stands one place before its token.
    wanted = torch.zeros_like(mask, dtype=torch.bool)
    for i, (prompt, answer) in enumerate(rows):
        wanted[i, len(prompt) - 1 : len(prompt) + len(answer) - 1] = True
    hidden = []
    for one in (base, model):
        output = one.base_model(
            input_ids=ids.to(one.device), attention_mask=mask.to(one.device), use_cache=False
        )
        hidden.append(output.last_hidden_state[wanted.to(one.device)])
    heads = head_of(base), head_of(model)
    if heads[0].vocabulary != heads[1].vocabulary:
        raise InputError("evaluation.answers: the two models have vocabularies of different size")
    agree, divergence = [], []
    step = max(1, _BUDGET // heads[0].vocabulary)
    for start in range(0, len(hidden[0]), step):
        p, q = (head.logits(states[start : start + step]) for head, states in zip(heads, hidden, strict=True))
        agree.append((p.argmax(-1) == q.argmax(-1)).double().cpu())
        p, q = p.log_softmax(-1), q.log_softmax(-1)
        # A token that the unpruned model rules out adds nothing, whatever the other thinks of it.
        terms = torch.where(p.isneginf(), 0.0, p.exp() * (p - q))
        # Rounding can make a divergence of nothing a hair less than nothing.
        divergence.append(terms.sum(-1).clamp(min=0).double().cpu())
    lengths = [len(answer) for _, answer in rows]
    split = [torch.split(torch.cat(one), lengths) for one in (agree, divergence)]
    return [(float(a.mean()), float(d.mean())) for a, d in zip(*split, strict=True)]
