"""Whether a model's own answers are sound: empty, unfinished, repetitive, caught in a loop.

Pruned models that still choose well among given answers may be unable to write one. These measures need no
reference: they look at the tokens of what was written.
"""

from collections.abc import Sequence
from statistics import fmean

from pydantic import BaseModel, ConfigDict, Field

from regrow.evaluate.answers import Answer

_GRAM = 4
# An answer loops when its end is one run of tokens this often in a row, together at least so many tokens.
_TURNS, _LOOP = 3, 24


class Health(BaseModel):
    """Shares and means over a model's answers."""

    model_config = ConfigDict(frozen=True)

    answers: int = Field(description="number of answers")
    empty: float = Field(description="share without a word: nothing but white space")
    unfinished: float = Field(description="share that was still going on at max_new_tokens")
    looping: float = Field(description="share that was still going on, saying the same again and again")
    repetition: float = Field(
        description="mean share of an answer's runs of four tokens that came before in it"
    )
    length: float = Field(description="mean tokens of an answer, the end token among them")


def health(answers: Sequence[Answer]) -> Health:
    """Return the health of answers; questions too long for the model have none and do not count."""
    written = [one for one in answers if not one.overlong]
    if not written:
        return Health(answers=0, empty=0.0, unfinished=0.0, looping=0.0, repetition=0.0, length=0.0)
    return Health(
        answers=len(written),
        empty=fmean(not one.text.strip() for one in written),
        unfinished=fmean(not one.finished for one in written),
        looping=fmean(not one.finished and loops(one.ids) for one in written),
        repetition=fmean(repetition(one.ids) for one in written),
        length=fmean(len(one.ids) for one in written),
    )


def repetition(ids: Sequence[int], n: int = _GRAM) -> float:
    """Return the share of the runs of `n` tokens that came before; 0 for fewer than `n` tokens."""
    runs = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def loops(ids: Sequence[int]) -> bool:
    """Tell whether tokens end in one run of tokens at least three times in a row, 24 tokens or more in all."""
    for period in range(1, len(ids) // _TURNS + 1):
        same = 0
        while same + period < len(ids) and ids[-1 - same] == ids[-1 - same - period]:
            same += 1
        if same + period >= max(_LOOP, _TURNS * period):
            return True
    return False
