"""Instructions with reference answers: read from any set, without doubles, free of evaluation items."""

import logging
import random
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from regrow.adapters import ADAPTERS, CHOICE_REQUEST, FieldError, Fields
from regrow.errors import InputError
from regrow.files import canonical_digest
from regrow.source import DatasetSpec
from regrow.source.rows import Damaged, open_damaged_rows

_log = logging.getLogger(__name__)

_WORD = re.compile(r"\w+")
# How evaluation harnesses wrap a question; the words are not the question's own.
_WRAPPER = re.compile(r"^\s*(?:question|q)\s*:|\b(?:answer|a)\s*:\s*$", re.IGNORECASE)
# Malformed rows that are named one by one.
_REASONS = 5
_REMEDY = "mend the row, or set malformed: skip to leave it out"
# Shorter evaluation texts ("Paris", "What is it?") occur everywhere; they count only as a whole field.
_SHORTEST_RUN = 5


class Record(BaseModel):
    """One instruction and the answer that its data set gives."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(
        default="",
        pattern=r"^[0-9a-f]{16}$",
        description="first 16 hexadecimal digits of the SHA-256 over instruction, input and reference",
    )
    instruction: str = Field(min_length=1, description="what the model is asked, with any choices")
    input: str = Field(default="", description="material that the instruction speaks of, if any")
    reference: str = Field(min_length=1, description="the data set's answer")
    answer: str | None = Field(default=None, description="the final answer in short, where there is one")
    source: str = Field(description="name of the data set")

    @model_validator(mode="before")
    @classmethod
    def _named_by_content(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        parts = [value.get("instruction", ""), value.get("input", ""), value.get("reference", "")]
        name = canonical_digest(parts)[:16]
        if value.get("id", name) != name:
            raise ValueError(f"id {value['id']!r} does not belong to this record, whose id is {name}")
        return {**value, "id": name, "answer": value.get("answer") or None}


class Reading(BaseModel):
    """What reading a data set gave: the records, and what became of the other rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    records: list[Record] = Field(description="in a seeded order, without doubles")
    rows: int = Field(description="rows that were looked at; with a limit not all of the set")
    doubles: int = Field(description="rows left out because their instruction and input came before")
    unusable: int = Field(description="rows left out as empty, or marked as wrong by their own set")
    malformed: int = Field(description="rows left out because they cannot be read (malformed: skip)")
    reasons: list[str] = Field(description="file, row and reason of the first malformed rows")

    def counts(self) -> dict[str, int]:
        """The numbers, for a log or for metadata."""
        return {
            "rows": self.rows,
            "records": len(self.records),
            "doubles": self.doubles,
            "unusable": self.unusable,
            "malformed": self.malformed,
        }


def read_records(spec: DatasetSpec) -> list[Record]:
    """Read a data set's records in a seeded order, without doubles, at most `spec.limit` of them.

    Rows with an empty instruction or reference, and rows that their own set marks as wrong, are left out;
    the number is logged. A smaller limit gives a prefix of what a larger one gives.

    Raises:
        InputError: the source cannot be read, a row is malformed (unless these are skipped), or no record is
            left.
    """
    return read_and_count(spec).records


def read_and_count(spec: DatasetSpec) -> Reading:
    """Read a data set as `read_records`, and say what became of the rows that gave no record.

    Raises:
        InputError: as `read_records`.
    """
    rows = open_damaged_rows(spec.source, spec.sha256)
    if spec.malformed == "stop" and isinstance(rows, list):
        # The first in the file, not the first in the seeded order.
        for row in rows:
            if isinstance(row, Damaged):
                raise InputError(f"{row.reason}; {_REMEDY}")
    order = list(range(len(rows)))
    random.Random(spec.seed).shuffle(order)  # noqa: S311 - a reproducible order, not a secret
    records: list[Record] = []
    ids: set[str] = set()
    instructions: set[str] = set()
    looked = unusable = doubles = malformed = 0
    reasons: list[str] = []
    for number in order:
        looked += 1
        try:
            record = _record(rows[number], number, spec)
        except InputError as error:
            if spec.malformed == "stop":
                raise InputError(f"{error}; {_REMEDY}") from None
            malformed += 1
            if len(reasons) < _REASONS:
                reasons.append(str(error))
            continue
        if record is None:
            unusable += 1
            continue
        same = _normalised(f"{record.instruction}\n{record.input}")
        if record.id in ids or same in instructions:
            doubles += 1
            continue
        ids.add(record.id)
        instructions.add(same)
        records.append(record)
        if len(records) == spec.limit:
            break
    for reason in reasons:
        _log.warning("left out: %s", reason)
    if malformed > len(reasons):
        _log.warning("left out: %d more malformed rows of %s", malformed - len(reasons), spec.source)
    if not records:
        raise InputError(
            f"{spec.source}: no usable record; every row is empty or marked as wrong by its own set"
            + (f", or malformed ({malformed})" if malformed else "")
        )
    _log.info(
        "%s: %d records, left out %d doubles, %d unusable and %d malformed rows",
        spec.name,
        len(records),
        doubles,
        unusable,
        malformed,
    )
    return Reading(
        records=records, rows=looked, doubles=doubles, unusable=unusable, malformed=malformed, reasons=reasons
    )


def _record(row: dict[str, Any] | Damaged, number: int, spec: DatasetSpec) -> Record | None:
    if isinstance(row, Damaged):
        raise InputError(row.reason)
    try:
        draft = ADAPTERS[spec.adapter](Fields(row, spec.columns))
    except FieldError as error:
        raise InputError(f"{spec.source}: row {number + 1}: {error}") from None
    if draft is None or not draft.instruction or not draft.reference:
        return None
    return Record(**draft._asdict(), source=spec.name)


def decontaminate(
    records: Iterable[Record], texts: Iterable[str], n: int = 13
) -> tuple[list[Record], list[Record]]:
    """Separate records that share wording with evaluation texts.

    A record is removed when one of its fields holds `n` successive words of a text, or the whole of a text
    of fewer than `n` words (of fewer than five: only if the field is nothing else). Words are compared
    without case and punctuation. This is the n-gram rule of Brown et al. 2020, appendix C (n = 13).

    Args:
        records: the training records.
        texts: the evaluation items, as they stand in their sets.
        n: words that make an overlap, at least 5.

    Returns:
        Kept and removed records, in their order.
    """
    if n < _SHORTEST_RUN:
        raise ValueError(f"n = {n}: fewer than {_SHORTEST_RUN} words overlap by chance")
    runs: dict[int, set[int]] = {}
    whole: set[int] = set()
    for text in texts:
        words = _words(text)
        if not words:
            continue
        if len(words) < _SHORTEST_RUN:
            whole.add(hash(tuple(words)))
        else:
            size = min(n, len(words))
            runs.setdefault(size, set()).update(_runs(words, size))
    kept: list[Record] = []
    removed: list[Record] = []
    for record in records:
        overlaps = any(_overlaps(field, runs, whole) for field in _fields(record))
        (removed if overlaps else kept).append(record)
    return kept, removed


def _fields(record: Record) -> Iterator[list[str]]:
    instruction, _, rest = record.instruction.partition("\n\n")
    yield _words(instruction)
    if rest:
        # The question and its choices also count together: some sets write them in one text.
        yield _words(record.instruction)
    for text in (record.input, record.reference):
        if text:
            yield _words(text)


def _overlaps(words: list[str], runs: dict[int, set[int]], whole: set[int]) -> bool:
    if hash(tuple(words)) in whole:
        return True
    return any(not known.isdisjoint(_runs(words, size)) for size, known in runs.items())


def _runs(words: list[str], size: int) -> Iterator[int]:
    return (hash(tuple(words[i : i + size])) for i in range(len(words) - size + 1))


def _words(text: str) -> list[str]:
    # Our own wording of the request stands in every choice record and is no contamination.
    return _WORD.findall(_WRAPPER.sub(" ", text.replace(CHOICE_REQUEST, "")).casefold())


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())
