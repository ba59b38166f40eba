"""What an engine is: it continues prompts, and says of each answer whether it came to its end."""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from regrow.files import read_json
from regrow.selfdata import prompts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from regrow.checkpoint import Checkpoint

log = logging.getLogger(__name__)


class Sampling(BaseModel):
    """How the next token is chosen and when to stop."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_new_tokens: int = Field(256, ge=1, description="longest answer, in tokens")
    temperature: float = Field(
        0.0, ge=0.0, description="0 takes the likeliest token, else softmax temperature"
    )
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="nucleus: probability mass that is sampled from")


@dataclass(frozen=True, slots=True)
class Generation:
    """What the model wrote after one prompt.

    `finished` says that it ended by itself. `overlong` says that prompt and answer do not fit in the
    context, so nothing was generated. `seed` is the one that it was sampled with, -1 for greedy decoding.
    `ids` are the generated tokens with the end token, where the engine knows them (a server sends text); they
    do not count when two are compared.
    """

    text: str
    tokens: int
    finished: bool
    prompt_tokens: int
    overlong: bool = False
    seed: int = -1
    ids: tuple[int, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to be continued: `number` is its place in the call, `seed` is -1 for greedy decoding."""

    number: int
    prompt: list[int]
    seed: int


class Engine(ABC):
    """Anything that continues prompts, tokenized here by the checkpoint's own tokenizer.

    `in_flight` is the number of prompts that it works on at one time, whichever calls they came with: so
    many it needs to be kept busy, and then `generate` may be called from several threads. 0: one call at a
    time, for the calls themselves are its batches.

    Args:
        checkpoint: the model; needs a chat template.
    """

    name: str
    in_flight: int

    def __init__(self, checkpoint: "Checkpoint") -> None:
        self._tokenizer: PreTrainedTokenizerBase = checkpoint.chat_tokenizer()
        config = checkpoint.config.get("text_config", checkpoint.config)
        self._context: int = config.get("max_position_embeddings") or 2**31
        self._ends = end_tokens(checkpoint, self._tokenizer)
        # Fast tokenizers raise "Already borrowed" when two threads use one.
        self._tokenizing = threading.Lock()

    def close(self) -> None:
        """Give up what is still being worked on; calls of `generate` in other threads end with an error.

        An engine of one call at a time has nothing to give up.
        """
        return

    def render(self, messages: list[dict[str, str]], prefix: str = "") -> str:
        """Return the prompt for a conversation, by the model's own chat template."""
        with self._tokenizing:
            return prompts.render(self._tokenizer, messages, prefix)

    def count(self, text: str) -> int:
        """Return the number of tokens in a text, without special tokens."""
        with self._tokenizing:
            return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def generate(
        self,
        texts: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> list[Generation]:
        """Continue each prompt; results come in the order of the prompts.

        Args:
            texts: rendered prompts, special tokens included.
            sampling: how to decode.
            seeds: a seed below 2**31 for each prompt; needed for sampling, of no account for greedy decoding.
            progress: told the number of answers that have just been finished; may be called by any thread.

        Raises:
            ValueError: sampling without a seed for each prompt.
            RegrowError: the engine gave up.
        """
        if sampling.temperature and (seeds is None or len(seeds) != len(texts)):
            raise ValueError("sampling needs a seed for each prompt")
        results: dict[int, Generation] = {}
        requests = []
        for i, prompt in enumerate(self._encode(texts)):
            # An empty prompt has nothing to continue; one that leaves no room for the answer is refused.
            if not prompt or len(prompt) + sampling.max_new_tokens > self._context:
                results[i] = Generation("", 0, finished=False, prompt_tokens=len(prompt), overlong=True)
            else:
                requests.append(Request(i, prompt, seeds[i] if seeds and sampling.temperature else -1))
        if progress and results:
            progress(len(results))
        for request, generation in self._continue(requests, sampling):
            results[request.number] = generation
            if progress:
                progress(1)
        return [results[i] for i in range(len(texts))]

    @abstractmethod
    def _continue(
        self, requests: Sequence[Request], sampling: Sampling
    ) -> Iterator[tuple[Request, Generation]]:
        """Yield each request with what was written, as they end."""

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of rendered prompts, which hold their special tokens already."""
        if not texts:
            return []
        with self._tokenizing:
            tokens: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return tokens

    def _written(self, request: Request, tokens: Sequence[int], *, finished: bool) -> Generation:
        """Return what generated tokens say, special ones left out."""
        with self._tokenizing:
            text = str(self._tokenizer.decode(tokens, skip_special_tokens=True))
        return Generation(
            text, len(tokens), finished, len(request.prompt), seed=request.seed, ids=tuple(tokens)
        )


def end_tokens(checkpoint: "Checkpoint", tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Collect what ends an answer: the end tokens of generation config, configuration and tokenizer."""
    stated: list[Any] = [tokenizer.eos_token_id]
    for name in ("generation_config.json", "config.json"):
        file = checkpoint.folder / name
        value = read_json(file).get("eos_token_id") if file.exists() else None
        stated += value if isinstance(value, Iterable) else [value]
        if value is not None:
            break  # the generation config has the last word, as in transformers
    ends = {token for token in stated if token is not None}
    if not ends:
        log.warning("the model names no end token; every answer will run to its full length")
    return ends
