"""The rule of self-data distillation: when a rewrite takes the place of the reference answer.

A rewrite is accepted when it is whole, clean and ends in the record's final answer (arXiv 2410.09982, after
SDFT, arXiv 2402.13669); otherwise the reference stays and the decision says why.
"""

import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from regrow.files import canonical_digest, sha256_of
from regrow.selfdata import answers
from regrow.selfdata.engines import Generation

REWRITTEN = "rewritten"
# Why a reference stayed.
DIFFERS = "kept: answer differs"
BANNED = "kept: banned phrase"
UNFINISHED = "kept: unfinished"
EMPTY = "kept: empty"
OVERLONG = "kept: prompt too long"
NO_ANSWER = "kept: no answer to compare"
DECISIONS = (REWRITTEN, DIFFERS, BANNED, UNFINISHED, EMPTY, OVERLONG, NO_ANSWER)

# The model speaks about its task instead of answering.
TASK_PHRASES = (
    "reference answer",
    "your response",
    "my response",
    "your own response",
    "your own words",
    "my own words",
    "now it's your turn",
)
# It speaks about itself, or declines.
REFUSALS = (
    "as an ai",
    "as a language model",
    "i'm sorry, but",
    "i am sorry, but",
    "i cannot assist",
    "i can't assist",
    "i cannot help with",
)
BANNED_PHRASES = TASK_PHRASES + REFUSALS


def judge(generation: Generation, prefix: str, answer: str | None, family: str, banned: Sequence[str]) -> str:
    """Decide on one rewrite; see the decisions of this module."""
    if generation.overlong:
        return OVERLONG
    if not generation.finished:
        return UNFINISHED
    if not generation.text.strip():
        return EMPTY
    if banned_phrase(generation.text, banned):
        return BANNED
    if family != "open" and answer is None:
        return NO_ANSWER
    return REWRITTEN if answers.matches(join(prefix, generation.text), answer, family) else DIFFERS


def version() -> str:
    """Return a digest that changes when the same rewrite may be decided on otherwise.

    It covers the code of this rule and of comparing answers, and the version of math-verify.
    """
    try:
        comparator = metadata.version("math-verify")
    except metadata.PackageNotFoundError:  # a machine that only generates choice, text or open data
        comparator = ""
    own = Path(__file__)
    code = [sha256_of(file) for file in (own, *sorted((own.parent / "answers").glob("*.py")))]
    return canonical_digest([comparator, *code])


def banned_phrase(text: str, banned: Sequence[str]) -> str | None:
    """Return the first banned phrase that stands in a text as whole words, in any case."""
    text = " ".join(text.replace("\u2019", "'").casefold().split())
    for phrase in banned:
        if re.search(rf"(?<!\w){re.escape(' '.join(phrase.casefold().split()))}(?!\w)", text):
            return phrase
    return None


def join(prefix: str, text: str) -> str:
    """Put the answer together from its given start and what the model wrote."""
    # Some tokenizers drop the leading space of the first token that they decode.
    gap = "" if not prefix or text[:1].isspace() else " "
    return f"{prefix}{gap}{text}".strip()


def acceptance_rate(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of rows whose response is a rewrite, 0 when there are none."""
    return round(sum(row["decision"] == REWRITTEN for row in rows) / len(rows), 6) if rows else 0.0


def acceptance_by_attempt(rows: Sequence[Mapping[str, Any]], attempts: int) -> list[float]:
    """Return the share of rows that were rewritten within 1, 2, ... `attempts` tries."""
    if not rows:
        return [0.0] * attempts
    at = [row["attempts"] for row in rows if row["decision"] == REWRITTEN]
    return [round(sum(one <= most for one in at) / len(rows), 6) for most in range(1, attempts + 1)]
