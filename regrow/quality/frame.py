"""The table that the suite looks at: the rows, and what has to be computed from them first."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from regrow.quality import personal, script
from regrow.quality.spec import GateSpec
from regrow.quality.truncation import breaks_off
from regrow.selfdata import answers, prompts
from regrow.selfdata.rule import REWRITTEN, banned_phrase
from regrow.selfdata.store import COLUMNS

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

_COMPUTED = (
    "length_ratio",
    "truncated",
    "task_phrase",
    "refusal",
    "drift",
    "personal_data",
    "secret",
    "accepted",
    "normal_response",
    "answer_stated",
    "answer_agrees",
    "reference_stated",
    "reference_agrees",
    "reference_kept",
)
# There if a tokenizer or evaluation items were given.
_OPTIONAL = ("template_round_trip", "conversation_tokens", "contaminated")
# Texts that are tokenized at one time.
_CHUNK = 512


def compute(
    rows: Sequence[dict[str, Any]],
    spec: GateSpec,
    family: str,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    contamination: Sequence[bool] | None = None,
) -> list[dict[str, Any]]:
    """Return the rows with what the checks on single rows look at; null: the check does not concern the row.

    Computed are the names in `_COMPUTED`; with a tokenizer template_round_trip and conversation_tokens; with
    `contamination`, which says it of each row, contaminated. A null instruction or response becomes empty.
    """
    from tqdm import tqdm

    # Seconds for thousands of rows: a bar appears only when it takes longer.
    bar = tqdm(rows, desc="gate", unit="row", delay=5)
    computed = [row | {"mistyped": _mistyped(row)} | _computed(row, spec, family) for row in bar]
    if tokenizer is not None:
        _render(computed, tokenizer)
    if contamination is not None:
        for row, found in zip(computed, contamination, strict=True):
            row["contaminated"] = found
    return computed


def build(computed: Mapping[int, dict[str, Any]], spec: GateSpec, family: str) -> "pd.DataFrame":
    """Return computed rows, by number, as a table; in choice data of some size with commonest_letter."""
    rows = list(computed.values())
    letters = _commonest_letter(rows, spec) if family == "choice" else None
    names = [*COLUMNS, "mistyped", *_COMPUTED]
    names += [name for name in _OPTIONAL if rows and name in rows[0]]
    table = _frame(list(computed), rows, names)
    if letters is not None:
        table["commonest_letter"] = letters
    return table


def typed(numbered: Mapping[int, dict[str, Any]]) -> "pd.DataFrame":
    """Return rows as they are, with the column `mistyped`: what is wrong with a row's types, or null."""
    rows = [row | {"mistyped": _mistyped(row)} for row in numbered.values()]
    names = list(dict.fromkeys(name for row in rows for name in row)) if rows else [*COLUMNS, "mistyped"]
    return _frame(list(numbered), rows, names)


def _mistyped(row: dict[str, Any]) -> str | None:
    for name, kind in COLUMNS.items():
        wanted = str if kind == "string" else int
        value = row.get(name)
        # An absent id or answer is for other checks to judge.
        if value is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
            return f"{name} is {type(value).__name__}, not {wanted.__name__}"
    return None


def _frame(numbers: Sequence[int], rows: Sequence[dict[str, Any]], names: Sequence[str]) -> "pd.DataFrame":
    import pandas as pd

    # Columns of Python objects: pandas would turn the nulls of whole numbers and truth values into others.
    columns = {name: pd.Series([row.get(name) for row in rows], dtype=object) for name in names}
    return pd.DataFrame({"row": pd.Series(numbers, dtype="int64")} | columns)


def contaminated(rows: Sequence[dict[str, Any]], texts: Iterable[str], words: int) -> list[bool]:
    """Say of each row whether its question, reference or response shares `words` words with a text."""
    from tqdm import tqdm

    from regrow.records import Record, decontaminate

    def record(number: int, instruction: Any, extra: Any, answer: Any) -> Record:
        # Built unchecked, for rows can be damaged.
        return Record.model_construct(
            id=str(number),
            instruction=str(instruction or ""),
            input=str(extra or ""),
            reference=str(answer or ""),
            answer=None,
            source="",
        )

    def records() -> Iterator[Record]:
        for number, row in enumerate(tqdm(rows, desc="contamination", unit="row", delay=5)):
            reference, response = row.get("reference"), row.get("response")
            yield record(number, row.get("instruction"), row.get("input"), reference)
            if response != reference:
                yield record(number, "", "", response)

    _, removed = decontaminate(records(), texts, words)
    numbers = {int(one.id) for one in removed}
    return [number in numbers for number in range(len(rows))]


def _computed(row: dict[str, Any], spec: GateSpec, family: str) -> dict[str, Any]:
    response, reference = str(row["response"] or ""), str(row["reference"] or "")
    question, answer = prompts.question(row), row["answer"]
    rewritten = row["decision"] == REWRITTEN
    said = answers.extract(response, family)
    # Most references were kept, or were rewritten to the same answer: the second look is spared.
    stated = said if reference == response else answers.extract(reference, family)
    agrees = answers.equal(said, answer, family)
    states = agrees if stated == said else answers.equal(stated, answer, family)
    # The words of a phrase may be apart in the text, but none may be missing: most texts need no closer look.
    plain = " ".join(response.replace("\u2019", "'").casefold().split())
    found = personal.find("\n".join(dict.fromkeys((question, reference, response))))
    return {
        "instruction": str(row["instruction"] or ""),
        "response": response,
        "length_ratio": len(response) / max(1, len(reference)),
        "truncated": breaks_off(response),
        "task_phrase": _phrase(response, plain, spec.banned_phrases) if rewritten else None,
        "refusal": _phrase(response, plain, spec.refusal_phrases),
        "drift": _drift(response, f"{question}\n{reference}", spec.max_foreign_letters),
        "personal_data": _masked(one for one in found if one.kind not in personal.SECRETS),
        "secret": _masked(one for one in found if one.kind in personal.SECRETS),
        "accepted": float(rewritten),
        "normal_response": " ".join(response.casefold().split()),
        "answer_stated": said,
        "answer_agrees": agrees if rewritten else None,
        "reference_stated": stated,
        "reference_agrees": None if answer is None else states,
        "reference_kept": None if rewritten else response == reference,
    }


def _phrase(text: str, plain: str, phrases: Sequence[str]) -> str | None:
    near = [phrase for phrase in phrases if " ".join(phrase.casefold().split()) in plain]
    return banned_phrase(text, near) if near else None


def _drift(response: str, context: str, most: float) -> str | None:
    found = script.foreign(response, context)
    return f"{found[0]}: {found[1]:.0%} of the letters" if found and found[1] > most else None


def _masked(matches: Iterable[personal.Match]) -> str | None:
    return " ".join(dict.fromkeys(match.masked for match in matches)) or None


def _commonest_letter(rows: Sequence[dict[str, Any]], spec: GateSpec) -> list[float | None] | None:
    """Say of each row with a letter whether that is the commonest; nothing if they are too few to judge."""
    letters = Counter(row["answer"] for row in rows if row["answer"])
    if letters.total() < spec.letter_balance_records:
        return None
    commonest = letters.most_common(1)[0][0]
    return [float(row["answer"] == commonest) if row["answer"] else None for row in rows]


def _render(rows: list[dict[str, Any]], tokenizer: "PreTrainedTokenizerBase") -> None:
    """Add how the chat template renders each row: whether it stays whole, and its tokens."""
    from tqdm import tqdm

    special = [token for token in tokenizer.all_special_tokens if token]
    bar = tqdm(total=len(rows), desc="chat template", unit="row", delay=5)
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        texts = [_rendered(row, tokenizer) for row in part]
        whole = [text[1] for text in texts if text is not None]
        lengths = iter([len(ids) for ids in tokenizer(whole, add_special_tokens=False)["input_ids"]])
        for row, text in zip(part, texts, strict=True):
            row["template_round_trip"] = text is not None and _round_trip(row, *text, special)
            row["conversation_tokens"] = None if text is None else next(lengths)
        bar.update(len(part))
    bar.close()


def _rendered(row: dict[str, Any], tokenizer: "PreTrainedTokenizerBase") -> tuple[str, str] | None:
    """Return prompt and whole conversation, or None when the chat template refuses them."""
    from jinja2 import TemplateError

    messages = prompts.student_messages(row)
    try:
        return (
            str(tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)),
            str(tokenizer.apply_chat_template(messages, tokenize=False)),
        )
    except TemplateError:
        return None


def _round_trip(row: dict[str, Any], prompt: str, whole: str, special: Sequence[str]) -> bool:
    """Whether the chat template keeps a conversation whole.

    The prompt must be the start of the conversation, both texts must stand in it as they are, and no
    special token may come out of the record's own text.
    """
    messages = prompts.student_messages(row)
    question, response = messages[0]["content"].strip(), messages[1]["content"].strip()
    if any(token in question or token in response for token in special):
        return False
    return question in prompt and whole.startswith(prompt) and response in whole[len(prompt) :]
