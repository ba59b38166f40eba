"""From a public set's row to an instruction with its reference answer: one small function a set.

Every reference with a final answer ends in one sentence, `The answer is N.` or `The answer is C) text.`,
so that the unpruned model's rewrite and the reference are read the same way.
"""

import math
import random
import re
from collections.abc import Callable
from hashlib import sha256
from string import ascii_uppercase
from typing import Any, NamedTuple

from regrow.source.rows import lookup

CHOICE_REQUEST = (
    "Reason briefly about which option fits best, then end with one line of the form "
    '"The answer is <letter>) <text>."'
)

# A field of more characters is no instruction: files that were read as one field, images in base64.
LONGEST_FIELD = 1_000_000

_MISSING = object()
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_TEMPLATE = re.compile(r".*?### Instruction:\s*(.*?)\s*(?:### Response:\s*)?", re.DOTALL)
_FIELD_OF_ANSWER = ("answerKey", "answer_key", "gold", "answer", "label")


class Draft(NamedTuple):
    """A record before it has a name: what an adapter makes of a row."""

    instruction: str
    reference: str
    answer: str | None = None
    input: str = ""


class FieldError(Exception):
    """A row cannot be read; the message says which field and why."""


class Fields:
    """A row seen through a spec's mapping of columns."""

    def __init__(self, row: dict[str, Any], columns: dict[str, str] | None) -> None:
        self._row = row
        self._columns = columns or {}

    def get(self, *names: str, default: Any = None) -> Any:
        """Return the first of the fields that the row has."""
        for name in names:
            value = lookup(self._row, self._columns.get(name, name), _MISSING)
            if value is not _MISSING:
                return value
        return default

    def need(self, *names: str) -> Any:
        """Return the first of the fields that the row has.

        Raises:
            FieldError: it has none of them.
        """
        value = self.get(*names, default=_MISSING)
        if value is _MISSING:
            wanted = " or ".join(repr(self._columns.get(name, name)) for name in names)
            raise FieldError(
                f"no field {wanted}; it has {', '.join(map(str, self._row))}; map `columns` or use another adapter"
            )
        return value

    def text(self, *names: str) -> str:
        """Return the first of the fields as text without outer space; null is the empty text.

        Raises:
            FieldError: it has none of them, or it is not text.
        """
        self.need(*names)
        return self.text_or_empty(*names)

    def text_or_empty(self, *names: str) -> str:
        """Return the first of the fields as text, the empty text if the row has none of them."""
        for name in names:
            column = self._columns.get(name, name)
            value = lookup(self._row, column, _MISSING)
            if value is not _MISSING:
                return as_text(value, column)
        return ""


def as_text(value: Any, name: str) -> str:
    """Return a field's value as text without outer space; null is the empty text.

    Raises:
        FieldError: it is not text, is too long, or holds what no file or tokenizer takes.
    """
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise FieldError(f"field {name!r} is not text but {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise FieldError(f"field {name!r} is not text but {value}")
    if isinstance(value, int) and abs(value) >= 10**400:
        raise FieldError(f"field {name!r} is a number of more than 400 digits")
    text = str(value).strip()
    if len(text) > LONGEST_FIELD:
        raise FieldError(f"field {name!r} has {len(text):,} characters, more than {LONGEST_FIELD:,}")
    if "\0" in text:
        raise FieldError(f"field {name!r} holds a NUL character")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise FieldError(
                f"field {name!r} holds half of a character (a lone surrogate, "
                f"\\u{ord(text[error.start]):04x}, at position {error.start + 1})"
            ) from None
    return text


Adapter = Callable[[Fields], Draft | None]


def gsm8k(row: Fields) -> Draft | None:
    """`question`, `answer` with the final number after ####; calculator marks are taken out."""
    question, solution = row.text("question"), row.text("answer")
    steps, mark, answer = solution.rpartition("####")
    if not mark:
        raise FieldError("field 'answer' has no final answer after ####")
    answer = answer.strip().replace(",", "")
    steps = _CALCULATOR.sub("", steps).strip()
    return Draft(question, f"{steps}\n{_the_answer(answer)}".strip(), answer)


def openmathinstruct(row: Fields) -> Draft | None:
    """OpenMathInstruct 1 (`question`) and 2 (`problem`); solutions marked as wrong are left out."""
    question, solution = row.text("problem", "question"), row.text("generated_solution")
    answer = row.text("expected_answer")
    if row.get("is_correct", default=True) in (False, "False", "false", 0):
        return None
    if not answer:
        return None
    closing = _the_answer(answer)
    return Draft(question, solution if solution.endswith(closing) else f"{solution}\n\n{closing}", answer)


def alpaca(row: Fields) -> Draft | None:
    """`instruction`, `input` (may be empty), `output`."""
    given = row.text_or_empty("input")
    # Some editions write the absence of an input out.
    given = "" if given.lower().strip(".<> ") in {"noinput", "no input", "n/a", "none"} else given
    return Draft(row.text("instruction"), row.text("output"), input=given)


def dolly(row: Fields) -> Draft | None:
    """`instruction`, `context` or `input`, `response` or `output`; also `prompt` in the Alpaca template."""
    instruction = row.text("instruction", "prompt")
    if match := _TEMPLATE.fullmatch(instruction):
        instruction = match[1]
    return Draft(instruction, row.text("response", "output"), input=row.text_or_empty("context", "input"))


def sciq(row: Fields) -> Draft | None:
    """`question`, `correct_answer`, `distractor1..3`; the `support` passage is the reasoning."""
    question, correct = row.text("question"), row.text("correct_answer")
    texts = [correct, *(row.text(f"distractor{i}") for i in (1, 2, 3))]
    # The published order gives the answer away; the question itself decides the new one.
    random.Random(sha256(question.encode()).digest()).shuffle(texts)  # noqa: S311 - reproducible, not secret
    return choose(question, texts, texts.index(correct), row.text_or_empty("support"))


def social_i_qa(row: Fields) -> Draft | None:
    """`context`, `question`, `answerA..C`, `label` 1 to 3."""
    question = f"{row.text('context')} {row.text('question')}".strip()
    texts = [row.text(f"answer{letter}") for letter in "ABC"]
    label = row.text("label")
    if label not in {"1", "2", "3"}:
        raise FieldError(f"field 'label' is {label!r}, not 1, 2 or 3")
    return choose(question, texts, int(label) - 1)


def choice(row: Fields) -> Draft | None:
    """`question` or `question_stem`, `choices` {text, label} with `answerKey`, or a list with the index.

    Fits ai2_arc, openbookqa, commonsense_qa and MMLU. Labels such as 1 to 4 become A to D. A supporting fact
    (`support`, `fact1` or `explanation`), if there is one, comes first in the reference.
    """
    question, choices = row.text("question", "question_stem"), row.need("choices")
    key = row.need(*_FIELD_OF_ANSWER)
    texts, labels = _choices(choices)
    if isinstance(key, int) and not isinstance(key, bool):
        correct = key
    elif not (label := as_text(key, "the answer")):
        return None  # test splits without published answers
    else:
        correct = labels.index(label) if label in labels else -1
    if not 0 <= correct < len(texts):
        raise FieldError(f"the answer {key!r} is none of the choices {', '.join(labels)}")
    return choose(question, texts, correct, row.text_or_empty("support", "fact1", "explanation"))


def _choices(choices: Any) -> tuple[list[str], list[str]]:
    """Return the texts and labels of `choices`; a list without labels gets A, B, C."""
    if isinstance(choices, dict) and isinstance(choices.get("text"), list):
        texts, labels = choices["text"], choices.get("label")
    elif isinstance(choices, list) and choices and all(isinstance(one, dict) for one in choices):
        texts, labels = [one.get("text") for one in choices], [one.get("label") for one in choices]
    elif isinstance(choices, list):
        texts, labels = choices, list(ascii_uppercase[: len(choices)])
    else:
        raise FieldError("field 'choices' is neither a list nor {text, label}")
    if not isinstance(labels, list) or len(labels) != len(texts):
        raise FieldError(f"field 'choices' has {len(texts)} texts, and labels that do not fit them")
    return [as_text(one, "choices") for one in texts], [as_text(one, "choices") for one in labels]


def columns(row: Fields) -> Draft | None:
    """Fields named by the spec's `columns`, else by their own names: instruction, reference, input, answer."""
    return Draft(
        row.text("instruction"),
        row.text("reference"),
        row.text_or_empty("answer"),
        row.text_or_empty("input"),
    )


def choose(question: str, texts: list[str], correct: int, support: str = "") -> Draft | None:
    """Word a multiple-choice question and its reference; none if a choice is empty or given twice."""
    if not all(texts) or len(set(texts)) < len(texts) or len(texts) > len(ascii_uppercase):
        return None
    options = "\n".join(f"{letter}) {text}" for letter, text in zip(ascii_uppercase, texts, strict=False))
    letter = ascii_uppercase[correct]
    closing = _the_answer(f"{letter}) {texts[correct]}")
    reference = f"{support}\n\n{closing}" if support else closing
    return Draft(f"{question}\n\n{options}\n\n{CHOICE_REQUEST}", reference, letter)


def _the_answer(answer: str) -> str:
    return f"The answer is {answer}" if answer.endswith(".") else f"The answer is {answer}."


ADAPTERS: dict[str, Adapter] = {
    "alpaca": alpaca,
    "choice": choice,
    "columns": columns,
    "dolly": dolly,
    "gsm8k": gsm8k,
    "openmathinstruct": openmathinstruct,
    "sciq": sciq,
    "social_i_qa": social_i_qa,
}
