"""lm-eval's Hugging Face model with each question read once, not once for every choice.

The choices of a question share its text. Here they stand behind it in one row, the rows of several
questions in one sequence, and a mask lets every choice see its own question and itself only; positions
count on from the question's end. What is computed is the same, without the repeated questions, without
padding, and with the output head applied to the scored positions alone.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

if TYPE_CHECKING:
    import torch

# ((context, continuation) as text, tokens of the context, tokens of the continuation), as lm-eval has it.
Request = tuple[tuple[str, str], list[int], list[int]]
Group = list[int]  # numbers of the requests of one context

# Families tested to take such masks and positions. Others, and sliding windows shorter than a question,
# take lm-eval's own path.
FAMILIES = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3", "olmo2", "granite"}
)
# Longer sequences spend more on the mask's empty places than they save.
_TOKENS = 512


def can_pack(model: Any) -> bool:
    """Tell whether the model takes a mask of its own for every position."""
    config = model.config
    return config.model_type in FAMILIES and config._attn_implementation in ("sdpa", "eager")


@lru_cache(maxsize=1)
def packed_model() -> type:
    """Return the subclass of lm-eval's HFLM; made here, since the import of lm-eval takes seconds."""
    from lm_eval.models.huggingface import HFLM

    class PackedLM(HFLM):  # type: ignore[misc]
        """HFLM whose log-likelihoods come from packed sequences."""

        def _loglikelihood_tokens(
            self, requests: list[Request], disable_tqdm: bool = False, override_bs: int | None = None
        ) -> list[tuple[float, bool]]:
            if not can_pack(self.model):
                return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs)
            window = getattr(self.model.config, "sliding_window", None) or self.max_length
            longest = min(self.max_length, window)
            fits = [
                i for i, (_, context, answer) in enumerate(requests) if len(context) + len(answer) <= longest
            ]
            rest = sorted(set(range(len(requests))) - set(fits))
            answers: dict[int, tuple[float, bool]] = {}
            with tqdm(
                total=len(fits), desc="questions and choices", unit="choice", disable=disable_tqdm
            ) as bar:
                for groups in pack(requests, fits, int(self.batch_size)):
                    for number, answer in score(self.model, requests, groups).items():
                        answers[number] = answer
                        self.cache_hook.add_partial("loglikelihood", requests[number][0], answer)
                        bar.update()
            if rest:
                plain = super()._loglikelihood_tokens([requests[i] for i in rest], disable_tqdm, override_bs)
                answers.update(zip(rest, plain, strict=True))
            return [answers[i] for i in range(len(requests))]

    return PackedLM


def pack(requests: list[Request], numbers: list[int], questions: int) -> Iterator[list[Group]]:
    """Yield the groups of each sequence: at most so many questions, and about 512 tokens."""
    contexts: dict[tuple[int, ...], Group] = {}
    for number in numbers:
        contexts.setdefault(tuple(requests[number][1]), []).append(number)
    sequence: list[Group] = []
    length = 0
    for context, group in contexts.items():
        size = len(context) + sum(len(requests[number][2]) - 1 for number in group)
        if sequence and (length + size > _TOKENS or len(sequence) == questions):
            yield sequence
            sequence, length = [], 0
        sequence.append(group)
        length += size
    if sequence:
        yield sequence


def score(model: Any, requests: list[Request], groups: list[Group]) -> dict[int, tuple[float, bool]]:
    """Return the log-likelihood of every continuation, and whether it is the greedy one.

    The last token of a continuation is only predicted, never read, so it is left out of the sequence.
    """
    import torch

    tokens: list[int] = []
    positions: list[int] = []
    question: list[int] = []  # which group a token belongs to
    choice: list[int] = []  # which request it is a part of; -1 in a context, which all of its group see
    kept: list[int] = []
    targets: list[int] = []
    spans: dict[int, tuple[int, int]] = {}
    for place, group in enumerate(groups):
        context = requests[group[0]][1]
        tokens += context
        positions += range(len(context))
        question += [place] * len(context)
        choice += [-1] * len(context)
        end = len(tokens) - 1
        for number in group:
            answer = requests[number][2]
            spans[number] = len(targets), len(targets) + len(answer)
            targets += answer
            kept += [end, *range(len(tokens), len(tokens) + len(answer) - 1)]
            tokens += answer[:-1]
            positions += range(len(context), len(context) + len(answer) - 1)
            question += [place] * (len(answer) - 1)
            choice += [number] * (len(answer) - 1)
    device = model.device
    with torch.inference_mode():
        logits = model(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([positions], device=device),
            attention_mask=_mask(question, choice).to(device, model.dtype),
            logits_to_keep=torch.tensor(kept, device=device),
            use_cache=False,
        ).logits[0]
        logs = torch.log_softmax(logits.float(), dim=-1)
        wanted = torch.tensor(targets, device=device)
        chosen = logs.gather(1, wanted[:, None])[:, 0].double().cpu()
        greedy = (logs.argmax(dim=-1) == wanted).cpu()
    return {
        number: (float(chosen[begin:end].sum()), bool(greedy[begin:end].all()))
        for number, (begin, end) in spans.items()
    }


def _mask(question: list[int], choice: list[int]) -> "torch.Tensor":
    """Return the mask to add to attention scores, shape (1, 1, length, length): 0 to see, else very low."""
    import torch

    groups, parts = torch.tensor(question), torch.tensor(choice)
    same = groups[:, None] == groups[None, :]
    own = (parts[None, :] == -1) | (parts[:, None] == parts[None, :])
    seen = (same & own).tril()
    # Low enough to be nothing after softmax, and finite in float16 too.
    return torch.where(seen, 0.0, -3e4)[None, None]
