"""The table that the suite looks at: the rows, and what has to be computed from them first."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from regrow.quality.spec import GateSpec
from regrow.selfdata import answers, prompts
from regrow.selfdata.rule import REWRITTEN, banned_phrase
from regrow.selfdata.store import COLUMNS

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

_COMPUTED = (
    "length_ratio",
    "task_phrase",
    "refusal",
    "accepted",
    "normal_response",
    "stated_answer",
    "answer_agrees",
    "reference_kept",
)


def build(
    rows: Sequence[dict[str, Any]],
    spec: GateSpec,
    family: str,
    tokenizer: "PreTrainedTokenizerBase | None",
    eval_texts: Iterable[str] | None,
) -> "pd.DataFrame":
    """Return the rows with computed columns; in those, null means that the check does not concern the row.

    Computed: length_ratio, task_phrase, refusal, accepted, normal_response, stated_answer,
    answer_agrees, reference_kept, template_round_trip (with a tokenizer), contaminated (with texts).
    """
    computed = [row | _computed(row, spec, family, tokenizer) for row in rows]
    if eval_texts is not None:
        for row, found in zip(
            computed, contaminated(rows, eval_texts, spec.contamination_words), strict=True
        ):
            row["contaminated"] = found
    names = [*COLUMNS, *_COMPUTED]
    if tokenizer is not None:
        names.append("template_round_trip")
    if eval_texts is not None:
        names.append("contaminated")
    return _frame(computed, names)


def typed(rows: Sequence[dict[str, Any]]) -> "pd.DataFrame":
    """Return the rows as they are, with the column `mistyped`: what is wrong with a row's types, or null."""
    names = list(dict.fromkeys(name for row in rows for name in row)) if rows else list(COLUMNS)
    return _frame([row | {"mistyped": _mistyped(row)} for row in rows], [*names, "mistyped"])


def _mistyped(row: dict[str, Any]) -> str | None:
    for name, kind in COLUMNS.items():
        wanted = str if kind == "string" else int
        value = row.get(name)
        # An absent id or answer is for other checks to judge.
        if value is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
            return f"{name} is {type(value).__name__}, not {wanted.__name__}"
    return None


def _frame(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> "pd.DataFrame":
    import pandas as pd

    # Columns of Python objects: pandas would turn the nulls of whole numbers and truth values into others.
    columns = {name: pd.Series([row.get(name) for row in rows], dtype=object) for name in names}
    return pd.DataFrame({"row": range(len(rows))} | columns)


def contaminated(rows: Sequence[dict[str, Any]], texts: Iterable[str], words: int) -> list[bool]:
    """Say of each row whether its question, reference or response shares `words` words with a text."""
    from regrow.records import Record, decontaminate

    # As question with reference, and as question with response; built unchecked, for rows can be damaged.
    records = [
        Record.model_construct(
            id=str(number),
            instruction=str(row.get("instruction") or ""),
            input=str(row.get("input") or ""),
            reference=str(row.get(name) or ""),
            answer=None,
            source="",
        )
        for number, row in enumerate(rows)
        for name in ("reference", "response")
    ]
    _, removed = decontaminate(records, texts, words)
    numbers = {int(record.id) for record in removed}
    return [number in numbers for number in range(len(rows))]


def _computed(
    row: dict[str, Any], spec: GateSpec, family: str, tokenizer: "PreTrainedTokenizerBase | None"
) -> dict[str, Any]:
    response, reference = str(row["response"] or ""), str(row["reference"] or "")
    rewritten = row["decision"] == REWRITTEN
    stated = answers.extract(response, family)
    computed = {
        "length_ratio": len(response) / max(1, len(reference)),
        "task_phrase": banned_phrase(response, spec.banned_phrases) if rewritten else None,
        "refusal": banned_phrase(response, spec.refusal_phrases),
        "accepted": float(rewritten),
        "normal_response": " ".join(response.casefold().split()),
        "stated_answer": stated,
        "answer_agrees": answers.matches(response, row["answer"], family) if rewritten else None,
        "reference_kept": None if rewritten else response == reference,
    }
    if tokenizer is not None:
        computed["template_round_trip"] = round_trip(row, tokenizer)
    return computed


def round_trip(row: dict[str, Any], tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the chat template keeps a conversation whole.

    The prompt must be the start of the conversation, both texts must stand in it as they are, and no
    special token may come out of the record's own text.
    """
    from jinja2 import TemplateError

    messages = prompts.student_messages(row)
    question, response = messages[0]["content"].strip(), messages[1]["content"].strip()
    try:
        prompt = str(tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True))
        whole = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except TemplateError:
        return False
    if any(token and token in question + response for token in tokenizer.all_special_tokens):
        return False
    return question in prompt and whole.startswith(prompt) and response in whole[len(prompt) :]
