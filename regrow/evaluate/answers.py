"""A model's own greedy answers to a set of questions.

Each question is asked alone, in the model's chat template, and answered by the engine that writes self-data.
Answers are kept in shards under the model's digest, the questions and the settings: a killed run goes on
after its last shard, and what several measures need (drift from the unpruned model, health) is written once.
"""

import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.evaluate import kept
from regrow.evaluate.live import Live
from regrow.evaluate.spec import EvaluateSpec
from regrow.files import canonical_digest

log = logging.getLogger(__name__)

# Changes when older answers would no longer be what this code gives.
_FORMAT = 1
# Also how many answers a killed run may lose.
_SHARD = 64


class Answer(BaseModel):
    """One answer."""

    model_config = ConfigDict(frozen=True)

    text: str = Field(description="what the model wrote, without special tokens")
    ids: tuple[int, ...] = Field(description="the tokens it generated, the end token among them")
    finished: bool = Field(description="it ended by itself, before max_new_tokens")
    overlong: bool = Field(
        description="question and answer do not fit into the context; nothing was generated"
    )


class Answers(BaseModel):
    """A model's answers, in the order of the questions."""

    model_config = ConfigDict(frozen=True)

    model: str = Field(description="digest of the checkpoint")
    questions: str = Field(description="digest of the questions' texts")
    prompts: tuple[tuple[int, ...], ...] = Field(description="tokens of each question in the chat template")
    items: tuple[Answer, ...] = Field(description="the answers")
    settings: dict[str, Any] = Field(description="everything else that answers depend on")


class _Shard(BaseModel):
    items: tuple[Answer, ...]


def read_questions(spec: EvaluateSpec) -> list[str]:
    """Return the questions of the section `answers`.

    Raises:
        InputError: there is no such section, or its set cannot be read.
    """
    from regrow.records import read_records
    from regrow.selfdata.prompts import question

    if spec.answers is None:
        raise InputError("evaluation.answers: is not given; name the questions that models answer")
    return [question(record) for record in read_records(spec.answers.prompts)]


def settings(checkpoint: Checkpoint, dtype: str) -> dict[str, Any]:
    """Return what every computation with a model depends on: type, device, versions."""
    import torch

    from regrow.device import device

    return {
        "dtype": str(checkpoint.compute_dtype(dtype)).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if device() == "cuda" else "cpu",
        "torch": version("torch"),
        "transformers": version("transformers"),
        "format": _FORMAT,
    }


def prompt_tokens(checkpoint: Checkpoint, questions: list[str]) -> tuple[tuple[int, ...], ...]:
    """Return the tokens of each question as a user's turn in the model's chat template.

    Raises:
        InputError: the model has no chat template.
    """
    from regrow.selfdata.prompts import render

    tokenizer = checkpoint.chat_tokenizer()
    texts = [render(tokenizer, [{"role": "user", "content": text}]) for text in questions]
    return tuple(tuple(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"])


def answers(
    checkpoint: Checkpoint, spec: EvaluateSpec, cache: Path | None = None, live: Live | None = None
) -> Answers:
    """Let a model answer the questions of `spec.answers`, greedily.

    Args:
        checkpoint: the model; needs a chat template.
        spec: the questions and how they are answered.
        cache: folder for finished shards; nothing is kept if not given.
        live: the same checkpoint where others use its loaded model, too.

    Raises:
        InputError: the questions or the model cannot be used.
    """
    questions = read_questions(spec)
    assert spec.answers is not None
    asked = spec.answers
    live = live or Live(checkpoint, spec.dtype)
    common = {
        "max_new_tokens": asked.max_new_tokens,
        "batch_size": asked.batch_size,
        **settings(checkpoint, spec.dtype),
    }
    items: list[Answer] = []
    engine = None
    with tqdm(total=len(questions), desc="answers", unit="answer", dynamic_ncols=True) as bar:
        for start in range(0, len(questions), _SHARD):
            part = questions[start : start + _SHARD]
            key = {"model": checkpoint.digest, "questions": part, **common}
            path = kept.place(cache, checkpoint, "answers", key)
            shard = kept.find(path, key, _Shard)
            if shard is None:
                engine = engine or _engine(live, asked.batch_size)
                shard = _Shard(items=_generate(engine, part, asked.max_new_tokens))
                kept.keep(path, key, shard)
            bar.update(len(part))
            items += shard.items
    return Answers(
        model=checkpoint.digest,
        questions=canonical_digest(questions),
        prompts=prompt_tokens(checkpoint, questions),
        items=tuple(items),
        settings=common,
    )


def _engine(live: Live, batch_size: int) -> Any:
    from regrow.selfdata.engines import TransformersEngine

    return TransformersEngine(live.checkpoint, batch_size=batch_size, model=live.model)


def _generate(engine: Any, questions: list[str], longest: int) -> tuple[Answer, ...]:
    from regrow.selfdata.engines import Sampling

    texts = [engine.render([{"role": "user", "content": text}]) for text in questions]
    return tuple(
        Answer(text=one.text, ids=one.ids, finished=one.finished, overlong=one.overlong)
        for one in engine.generate(texts, Sampling(max_new_tokens=longest))
    )
