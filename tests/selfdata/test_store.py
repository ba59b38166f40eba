import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.errors import InputError
from regrow.records import Record, read_records
from regrow.selfdata import COLUMNS, DECISIONS, REWRITTEN, SelfData, store
from regrow.source import DatasetSpec

SUFFIXES = [".jsonl", ".parquet", ".csv"]
HARD = [
    "two\nlines",
    "carriage\r\nreturn\rs",
    'a "quoted" word, and a comma',
    "caf\u00e9 \u6771\u4eac \U0001f600 \u05e9",
    "line\u2028and\u2029paragraph separator \x85",
    " outer space ",
    "'=1+1; \\n\\t\t",
    "null",
    "\ufeffmark",
    '""',
]


def row(instruction: str, reference: str = "yes", answer: str | None = None, given: str = "", **rest) -> dict:
    record = Record(instruction=instruction, input=given, reference=reference, answer=answer, source="set")
    return record.model_dump() | {
        "response": reference,
        "rewrite": reference,
        "engine": "transformers",
        "decision": REWRITTEN,
        "attempts": 1,
        "prompt_tokens": 12,
        "response_tokens": 2**40,
        "seed": 0,
        **rest,
    }


def saved(folder, rows) -> SelfData:
    return store.save(rows, {"family": "math", "engine": "transformers"}, folder / "set")


@pytest.fixture
def data(tmp_path) -> SelfData:
    rows = [
        row(f"{i} {text}", text, given=text if i % 2 else "", response=text) for i, text in enumerate(HARD)
    ]
    rows += [
        row("with an answer", "The answer is 5.", "5"),
        row("with null", "open", None, decision=DECISIONS[1]),
    ]
    return saved(tmp_path, rows)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_gives_back_the_set(data, tmp_path, suffix):
    file = store.export(data, tmp_path / f"out{suffix}")
    again = SelfData.open(file, family="math")
    assert again.rows() == data.rows()
    assert again.digest == data.digest
    for name in ("records", "decisions", "acceptance_rate", "family", "engine"):
        assert again.summary[name] == data.summary[name]
    assert [list(one) for one in again.rows()] == [list(COLUMNS)] * len(data.rows())
    folder = again.as_folder(tmp_path / "folder")
    assert (folder.digest, SelfData.open(folder.folder)) == (data.digest, folder)
    assert list(again.table().columns) == list(COLUMNS)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.text(min_size=1), st.text(), st.text(min_size=1), st.none() | st.text(min_size=1)),
        min_size=1,
        max_size=5,
        unique_by=lambda one: one[:3],
    )
)
def test_any_text_survives_every_format(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("store")
    data = saved(folder, [row(a, c, d, b, response=c) for a, b, c, d in texts])
    for suffix in SUFFIXES:
        assert SelfData.open(store.export(data, folder / f"a{suffix}"), family="open").digest == data.digest


def test_files_are_what_other_tools_read(data, tmp_path):
    files = {suffix: store.export(data, tmp_path / f"out{suffix}") for suffix in SUFFIXES}
    lines = files[".jsonl"].read_bytes().split(b"\n")
    assert [json.loads(line) for line in lines if line] == data.rows()
    assert b"\\u" not in files[".jsonl"].read_bytes().replace(b"\\u0085", b"").replace(b"\\\\", b"")
    assert pq.read_table(files[".parquet"]).to_pylist() == data.rows()
    assert pq.read_schema(files[".parquet"]).types == [pa.type_for_alias(kind) for kind in COLUMNS.values()]
    with files[".csv"].open(encoding="utf-8", newline="") as stream:
        found = list(csv.DictReader(stream))
    assert [list(one) for one in found] == [list(COLUMNS)] * len(found)
    assert [one["response"] for one in found] == [one["response"] for one in data.rows()]
    assert [one["answer"] for one in found] == [one["answer"] or "" for one in data.rows()]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_exported_file_is_a_dataset(tmp_path, suffix):
    rows = [row(f"{i} {text.strip()}", text.strip(), "5", text.strip()) for i, text in enumerate(HARD)]
    file = store.export(saved(tmp_path, rows), tmp_path / f"a{suffix}")
    found = read_records(DatasetSpec(name="set", source=str(file), adapter="columns", family="math"))
    wanted = {one["id"]: one for one in rows}
    assert {record.id for record in found} == set(wanted)
    for record in found:
        assert record.model_dump() == {name: wanted[record.id][name] for name in Record.model_fields}


def test_a_file_needs_a_family(data, tmp_path):
    file = store.export(data, tmp_path / "a.csv")
    for family in (None, "poem"):
        with pytest.raises(InputError, match=r"a\.csv: a single file does not say .* give family: choice"):
            SelfData.open(file, family=family)


def test_unknown_formats_and_missing_files(data, tmp_path):
    with pytest.raises(InputError, match=r"a\.xlsx: unknown format; use \.jsonl, \.parquet, \.csv"):
        store.export(data, tmp_path / "a.xlsx")
    assert not (tmp_path / "a.xlsx").exists()
    with pytest.raises(InputError, match=r"no\.jsonl: no such file"):
        SelfData.open(tmp_path / "no.jsonl", family="open")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "x"}, r"row 2: seed is not a whole number but str 'x'"),
        ({"attempts": 1.5}, "row 2: attempts is not a whole number but float"),
        ({"attempts": True}, "row 2: attempts is not a whole number but bool"),
        ({"response": None}, "row 2: response is not text but NoneType"),
        ({"response": "\ud800"}, "row 2: response holds half of a character"),
        ({"decision": "maybe"}, "row 2: decision is 'maybe'; use one of rewritten"),
        ({"reference": "changed"}, r"row 2: id: .*does not belong to this record.*; export the set again"),
        ({"engine": ...}, "row 2: no field engine; a file of self-data has id, instruction"),
    ],
    ids=str,
)
def test_a_changed_row_is_named(tmp_path, change, message):
    rows = [row("one"), row("two") | change, row("three")]
    file = tmp_path / "a.jsonl"
    lines = [{name: value for name, value in one.items() if value is not ...} for one in rows]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=rf"a\.jsonl: {message}"):
        SelfData.open(file, family="open")


def test_a_double_id_is_named(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text((json.dumps(row("one")) + "\n") * 2)
    with pytest.raises(InputError, match=r"row 2: id [0-9a-f]{16} came before"):
        SelfData.open(file, family="open")
