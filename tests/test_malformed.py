"""One damaged row among a thousand: named by default, left out and counted where the spec says so."""

import csv
import io
import json
import logging
import time
from pathlib import Path

import pytest

from regrow.adapters import ADAPTERS, LONGEST_FIELD, FieldError, Fields
from regrow.errors import InputError
from regrow.records import Record, read_and_count, read_records
from regrow.source import DatasetSpec, open_rows, read_rows

COUNT = 1000
BAD = 617  # the damaged row, from 1
GREAT = "x" * (5 * 2**20)


def good(i: int) -> dict:
    return {"instruction": f"Task {i}: say \u6771 in two\nlines", "output": f"Done, {i}."}


def line(i: int, **changes) -> bytes:
    return json.dumps(good(i) | changes).encode() + b"\n"


JSONL = {
    "cut": (b'{"instruction": "half", "outp\n', r"a\.jsonl:617: not valid JSON"),
    "no object": (b'["instruction", "output"]\n', r"a\.jsonl:617: a JSON object is expected, found list"),
    "null line": (b"null\n", r"a\.jsonl:617: a JSON object is expected, found NoneType"),
    "not UTF-8": (b'{"instruction": "caf\xe9", "output": "x"}\n', r"a\.jsonl:617: not UTF-8 text; convert"),
    "deep": (b"[" * 200_000 + b"\n", r"a\.jsonl:617: (JSON nested too deeply|not valid JSON)"),
    "digits": (
        b'{"instruction": ' + b"9" * 5000 + b', "output": "x"}\n',
        r"a\.jsonl:617: not valid JSON \(Exceeds",
    ),
    "NUL byte": (
        b'{"instruction": "a\x00b", "output": "x"}\n',
        r"a\.jsonl:617: not valid JSON \(Invalid control",
    ),
    "missing field": (b'{"instruction": "x"}\n', r"a\.jsonl: row 617: no field 'output'; it has instruction"),
    "wrong type": (line(1, output=["x"]), r"a\.jsonl: row 617: field 'output' is not text but list"),
    "boolean": (line(1, output=True), r"a\.jsonl: row 617: field 'output' is not text but bool"),
    "not a number": (
        b'{"instruction": NaN, "output": "x"}\n',
        r"row 617: field 'instruction' is not text but nan",
    ),
    "great number": (line(1, output=10**450), r"row 617: field 'output' is a number of more than 400 digits"),
    "surrogate": (
        line(1, output="a\ud800"),
        r"row 617: field 'output' holds half of a .*\\ud800, at position 2",
    ),
    "NUL": (line(1, instruction="a\x00b"), r"row 617: field 'instruction' holds a NUL character"),
    "5 MB": (
        line(1, instruction=GREAT),
        r"row 617: field 'instruction' has 5,242,880 characters, more than 1,000,000",
    ),
}


def cells(*fields: str) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue().encode("utf-8", "surrogateescape")


# Every good row takes two lines of the file, and the header one.
CSV = {
    "too few": (b"half\n", rf"a\.csv:{2 * BAD}: 1 fields, but the header has 2"),
    "too many": (b"a,b,c\n", rf"a\.csv:{2 * BAD}: 3 fields, but the header has 2"),
    "quotes": (b'"a"b,c\n', rf"a\.csv:{2 * BAD}: not valid CSV"),
    "not UTF-8": (b"caf\xe9,x\n", rf"a\.csv:{2 * BAD}: field 'instruction' is not UTF-8 text; convert"),
    "NUL": (b"a\x00b,x\n", r"a\.csv: row 617: field 'instruction' holds a NUL character"),
    "5 MB": (cells(GREAT, "x"), r"a\.csv: row 617: field 'instruction' has 5,242,880 characters"),
}


def write(folder: Path, suffix: str, damage: bytes, damaged: tuple[int, ...] = (BAD,)) -> Path:
    file = folder / f"a{suffix}"
    with file.open("wb") as stream:
        if suffix == ".csv":
            stream.write(b"instruction,output\n")
        for i in range(1, COUNT + 1):
            if i in damaged:
                stream.write(damage)
            elif suffix == ".csv":
                stream.write(cells(*good(i).values()))
            else:
                stream.write(line(i))
    return file


def spec(file: Path, **rest) -> DatasetSpec:
    return DatasetSpec(name="set", source=str(file), adapter="alpaca", **rest)


def check(file: Path, message: str, caplog) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_records(spec(file))
    assert str(caught.value).endswith("mend the row, or set malformed: skip to leave it out")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    caplog.clear()
    with caplog.at_level(logging.INFO):
        reading = read_and_count(spec(file, malformed="skip"))
    assert reading.counts() == {"rows": 1000, "records": 999, "doubles": 0, "unusable": 0, "malformed": 1}
    assert {record.instruction for record in reading.records} == {
        good(i)["instruction"] for i in range(1, COUNT + 1) if i != BAD
    }
    assert len(reading.reasons) == 1
    assert reading.reasons[0] in caplog.text
    assert "999 records, left out 0 doubles, 0 unusable and 1 malformed rows" in caplog.text
    assert read_records(spec(file, malformed="skip")) == reading.records


@pytest.mark.parametrize("kind", JSONL)
def test_json_lines(tmp_path, kind, caplog):
    damage, message = JSONL[kind]
    check(write(tmp_path, ".jsonl", damage), message, caplog)


@pytest.mark.parametrize("kind", CSV)
def test_csv(tmp_path, kind, caplog):
    damage, message = CSV[kind]
    check(write(tmp_path, ".csv", damage), message, caplog)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"caf\xe9", r"a\.parquet: row 617: field 'output' is not UTF-8 text; write the file again"),
        (b"\xed\xa0\x80", r"a\.parquet: row 617: field 'output' is not UTF-8 text"),
        (b"a\x00b", r"a\.parquet: row 617: field 'output' holds a NUL character"),
        (GREAT.encode(), r"a\.parquet: row 617: field 'output' has 5,242,880 characters"),
    ],
    ids=["latin", "surrogate", "NUL", "5 MB"],
)
def test_parquet(tmp_path, value, message, caplog):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [good(i) for i in range(1, COUNT + 1)]
    outputs = [row["output"].encode() for row in rows]
    outputs[BAD - 1] = value
    # Bytes that are no text under the type of text, as careless writers leave them.
    column = pa.array(outputs, pa.binary()).view(pa.string())
    table = pa.table({"instruction": [row["instruction"] for row in rows], "output": column})
    pq.write_table(table, tmp_path / "a.parquet")
    check(tmp_path / "a.parquet", message, caplog)


def test_a_list_of_objects(tmp_path, caplog):
    rows = [good(i) for i in range(1, COUNT + 1)]
    (tmp_path / "a.json").write_text(json.dumps([*rows[: BAD - 1], 7, *rows[BAD:]]))
    check(tmp_path / "a.json", r"a\.json: item 617: a JSON object is expected, found int", caplog)


def test_an_open_quote_stops_in_any_case(tmp_path):
    # It swallows the start of the next row; to go on would make a record of its rest.
    file = write(tmp_path, ".csv", b'"open,x\n')
    for malformed in ("stop", "skip"):
        with pytest.raises(
            InputError, match=r"a\.csv:1235: not valid CSV .*; a quote stands open since line 1234"
        ):
            read_records(spec(file, malformed=malformed))


def test_the_first_damaged_line_of_the_file_is_named(tmp_path):
    file = write(tmp_path, ".jsonl", b"{\n", damaged=(400, 30, 999))
    for seed in range(5):
        with pytest.raises(InputError, match=r"a\.jsonl:30: not valid JSON"):
            read_records(spec(file, seed=seed))
    with pytest.raises(InputError, match=r"a\.jsonl:30: not valid JSON"):
        read_rows(str(file))
    with pytest.raises(InputError, match=r"a\.jsonl:30: not valid JSON"):
        open_rows(str(file))


def test_many_damaged_rows_are_counted_and_the_first_named(tmp_path, caplog):
    file = write(tmp_path, ".jsonl", b"{\n", damaged=tuple(range(10, 1000, 10)))
    reading = read_and_count(spec(file, malformed="skip"))
    assert (reading.malformed, len(reading.records), len(reading.reasons)) == (99, 901, 5)
    assert "left out: 94 more malformed rows" in caplog.text
    few = read_and_count(spec(file, malformed="skip", limit=20))
    assert few.records == reading.records[:20]
    assert few.rows == 20 + few.malformed


def test_nothing_but_damage_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text("{\n[\n")
    with pytest.raises(InputError, match=r"no usable record; .* or malformed \(2\)"):
        read_records(spec(tmp_path / "a.jsonl", malformed="skip"))


def test_a_record_is_not_made_of_half_characters():
    with pytest.raises(ValueError, match="surrogate"):
        Record(instruction="a\udc80", reference="b", source="set")


def test_a_field_of_the_greatest_length_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(line(1, instruction="x" * LONGEST_FIELD))
    assert len(read_records(spec(tmp_path / "a.jsonl"))[0].instruction) == LONGEST_FIELD


STRANGE = [
    None,
    True,
    7,
    1.5,
    "",
    "a",
    "\ud800",
    [],
    [1],
    [None],
    {},
    {"text": None},
    {"text": [1, 2]},
    [[]],
    [{}],
]
STRANGE += [
    {"text": ["a", "b"], "label": ["A"]},
    {"text": ["a", "b"], "label": "AB"},
    [{"label": "A"}, {"text": "x"}],
]


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_no_adapter_breaks_on_strange_values(name):
    """Whatever stands in a field, an adapter makes a draft, leaves the row out, or says which field is wrong."""
    whole = {
        "question": "q", "problem": "q", "question_stem": "q", "instruction": "i", "prompt": "p", "context": "c",
        "input": "n", "output": "o", "response": "r", "reference": "f", "answer": "1 #### 1", "answerKey": "A",
        "choices": ["a", "b"], "correct_answer": "x", "distractor1": "u", "distractor2": "v", "distractor3": "w",
        "support": "s", "answerA": "a", "answerB": "b", "answerC": "c", "label": "1", "expected_answer": "4",
        "generated_solution": "So 4.", "is_correct": True,
    }  # fmt: skip
    refused = 0
    for field in whole:
        for value in STRANGE:
            try:
                draft = ADAPTERS[name](Fields(whole | {field: value}, None))
            except FieldError as error:
                assert len(str(error)) < 400
                refused += 1
            else:
                assert draft is None or all(isinstance(part, str) for part in draft if part is not None)
    assert refused > 5


def test_damage_costs_no_time(tmp_path):
    file = write(tmp_path, ".jsonl", line(1, instruction=GREAT))
    began = time.perf_counter()
    read_records(spec(file, malformed="skip"))
    assert time.perf_counter() - began < 3.0
