"""The adapters and the answer check on public sets, read where they lie (see `public_sets`)."""

import time
from hashlib import sha256
from itertools import pairwise

import pytest

from regrow.records import Reading, read_and_count
from regrow.selfdata.answers import equal, exact, matches
from regrow.source import DatasetSpec
from tests.public_sets import public_set

# Rows, records, doubles, rows without an answer, records with an input, and the digest of the records' ids.
SETS = {
    "gsm8k/train.jsonl": ("gsm8k", 7473, 7473, 0, 0, 0, "206afa59dc4e9d6d"),
    "alpaca/alpaca_random_9k.json": ("alpaca", 9229, 9225, 0, 4, 3551, "3c27942d244610dd"),
    "dolly/dolly_3k.json": ("dolly", 2996, 2981, 15, 0, 433, "9979922e5832ae4a"),
    "dolly/dolly_hhrlhf_train_small.jsonl": ("dolly", 1000, 999, 1, 0, 0, "8513540dc3dd262a"),
    "openmathinstruct2/openmathinstruct2_100.jsonl": (
        "openmathinstruct",
        100,
        100,
        0,
        0,
        0,
        "1b8d6e7c16b7b793",
    ),
}
MATH = [name for name, one in SETS.items() if one[0] in ("gsm8k", "openmathinstruct")]


def read(name: str, **rest) -> Reading:
    return read_and_count(
        DatasetSpec(name="set", source=str(public_set(name)), adapter=SETS[name][0], **rest)
    )


@pytest.mark.parametrize("name", SETS)
def test_what_is_read(name):
    _, rows, records, doubles, unusable, with_input, digest = SETS[name]
    began = time.perf_counter()
    reading = read(name)
    assert time.perf_counter() - began < 5.0
    assert reading.counts() == {
        "rows": rows,
        "records": records,
        "doubles": doubles,
        "unusable": unusable,
        "malformed": 0,
    }
    ids = sorted(record.id for record in reading.records)
    assert len(set(ids)) == records
    assert sha256(" ".join(ids).encode()).hexdigest()[:16] == digest
    assert sum(bool(record.input) for record in reading.records) == with_input
    for record in reading.records:
        assert "### Instruction" not in record.instruction
        assert "### Response" not in record.instruction
        assert "<<" not in record.reference or SETS[name][0] != "gsm8k"


@pytest.mark.parametrize("name", SETS)
def test_the_seed_orders_and_the_limit_cuts(name):
    everything = read(name).records
    assert read(name, limit=40).records == everything[:40]
    other = read(name, seed=1).records
    assert other[:40] != everything[:40]


@pytest.mark.parametrize("name", MATH)
def test_every_reference_ends_in_its_answer(name):
    for record in read(name).records:
        assert record.reference.endswith(f"The answer is {record.answer}.") or record.answer.endswith(".")
        assert matches(record.reference, record.answer, "math"), record.answer


@pytest.mark.parametrize("name", MATH)
def test_no_reference_ends_in_another_answer(name):
    records = read(name).records[:2000]
    for record, other in pairwise(records):
        if exact.parse(record.answer) != exact.parse(other.answer):
            assert not matches(record.reference, other.answer, "math"), (record.answer, other.answer)


def test_solutions_agree_without_the_closing_sentence():
    """What people wrote before the mark says the answer too; where it does not say it clearly, doubt is no."""
    records = read("gsm8k/train.jsonl").records
    bodies = [(record.reference.rpartition("\nThe answer is")[0], record.answer) for record in records]
    assert sum(matches(body, answer, "math") for body, answer in bodies) >= 0.97 * len(bodies)
    solutions = read("openmathinstruct2/openmathinstruct2_100.jsonl").records
    bodies = [(record.reference.rpartition("\n\nThe answer is")[0], record.answer) for record in solutions]
    assert all(matches(body, answer, "math") for body, answer in bodies)


def test_expressions_survive_another_way_of_writing():
    records = read("openmathinstruct2/openmathinstruct2_100.jsonl").records
    answers = [record.answer for record in records if exact.parse(record.answer) is None]
    assert len(answers) >= 20
    for answer in answers:
        for way in (
            f"${answer}$",
            f" {answer} ",
            answer.replace(r"\frac", r"\dfrac"),
            answer.replace(", ", ","),
        ):
            assert equal(way, answer, "math"), (way, answer)
            assert matches(rf"So we get $\boxed{{{way.strip('$')}}}$.", answer, "math"), way
