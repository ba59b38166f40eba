import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.errors import InputError
from regrow.files import sha256_of
from regrow.source import (
    TextSpec,
    lookup,
    read_rows,
    read_texts,
)

ZEROS = "0" * 64


def test_rows_of_every_format(tmp_path):
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"text": "eins\nzwei", "n": 1}, {"text": 'drei, "vier" é', "n": 2}]
    lines = "\n".join(json.dumps(row) for row in rows) + "\n\n"
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8-sig")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    (tmp_path / "lines.json").write_text(lines)
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=1))
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_stream(tmp_path / "stream.arrow", table.schema) as writer:
        writer.write_table(table)
    with pa.ipc.new_file(tmp_path / "file.arrow", table.schema) as writer:
        writer.write_table(table)
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    for name in (
        "a.jsonl",
        "a.jsonl.gz",
        "lines.json",
        "list.json",
        "a.parquet",
        "stream.arrow",
        "file.arrow",
        "saved",
    ):
        assert read_rows(str(tmp_path / name)) == rows, name
    (tmp_path / "a.csv").write_text('text,n\r\n"eins\nzwei",1\r\n"drei, ""vier"" é",2\r\n')
    assert read_rows(str(tmp_path / "a.csv")) == [row | {"n": str(row["n"])} for row in rows]


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none()), min_size=1))
def test_jsonl_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    assert read_rows(str(path)) == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n\n{"a": \n', r"a\.jsonl:3: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', r"a\.jsonl:2: a JSON object is expected, found list"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', r"a\.jsonl:2: not UTF-8"),
        ("a.jsonl", b"\n \n", "empty; it holds no rows"),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"a": 1}\n' * 99, mtime=0)[:-9],
            r"a\.jsonl\.gz:\d+: the gzip file is damaged",
        ),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"a": 1}\n', mtime=0)[:12] + b"\xff" * 20,
            r"the gzip file is damaged",
        ),
        ("a.jsonl.gz", b"plain", "the gzip file is damaged"),
        ("a.json", b'[\n{"a": 1},\n{"a": }\n]', r"a\.json:3: not valid JSON"),
        ("a.json", b'[{"a": 1}, 2]', r"a\.json: item 2: a JSON object is expected"),
        ("a.json", b'"text"', "a list of JSON objects is expected, found str"),
        ("a.json", b"[]", "empty"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r"a\.csv:3: 3 fields, but the header has 2"),
        ("a.csv", b"a,a\n1,2\n", r"a\.csv:1: two columns have the same name"),
        ("a.csv", b'a\n"open\n', r"a\.csv:2: not valid CSV"),
        ("a.csv", b"", "empty"),
        ("a.parquet", b"PAR1", "not a readable .parquet file"),
        ("a.arrow", b"ARROW1", "not a readable .arrow file"),
        ("a.txt", b"words", "unknown format; use .jsonl"),
    ],
    ids=str,
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_rows(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_bad_folders_are_named(tmp_path):
    import datasets

    data = datasets.Dataset.from_list([{"a": 1}])
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "dict")
    with pytest.raises(InputError, match=r"several splits \(train, test\); name the folder of one"):
        read_rows(str(tmp_path / "dict"))
    assert read_rows(str(tmp_path / "dict" / "test")) == [{"a": 1}]
    with pytest.raises(InputError, match="no such file or folder"):
        read_rows(str(tmp_path / "nope.jsonl"))
    with pytest.raises(InputError, match="not a folder saved by `datasets`"):
        read_rows(str(tmp_path))


def test_content_is_checked(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n')
    assert read_rows(str(path), sha256_of(path)) == [{"a": 1}]
    with pytest.raises(InputError, match=f"not {ZEROS}"):
        read_rows(str(path), ZEROS)


def test_lookup():
    row = {"doc": {"query": "q", "choices": ["x", {"t": "y"}]}, "a.b": 1}
    assert [
        lookup(row, path) for path in ("doc.query", "doc.choices.1.t", "a.b", "doc.no", "doc.choices.7")
    ] == [
        "q",
        "y",
        1,
        None,
        None,
    ]


# Texts


def write_texts(folder: Path, texts: list[str]) -> str:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"doc": {"query": text}}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


@given(
    st.lists(st.text(min_size=1, max_size=9).filter(str.strip), min_size=1, max_size=30), st.integers(1, 40)
)
def test_texts_are_unique_and_limits_are_prefixes(tmp_path_factory, texts, limit):
    source = write_texts(tmp_path_factory.mktemp("texts"), texts)
    found = read_texts(TextSpec(name="t", source=source, column="doc.query"))
    assert sorted(found) == sorted({text.strip() for text in texts})
    assert read_texts(TextSpec(name="t", source=source, column="doc.query", limit=limit)) == found[:limit]


def test_texts_are_shuffled_by_their_seed(tmp_path):
    source = write_texts(tmp_path, [f"text {i}" for i in range(99)])
    orders = {
        tuple(read_texts(TextSpec(name="t", source=source, column="doc.query", seed=i))) for i in (0, 0, 1)
    }
    assert len(orders) == 2


def test_texts_refuse(tmp_path):
    source = write_texts(tmp_path, ["short"])
    with pytest.raises(InputError, match=r"row 1 has no column 'text'; it has doc"):
        read_texts(TextSpec(name="t", source=source))
    with pytest.raises(InputError, match="no text of 6 characters"):
        read_texts(TextSpec(name="t", source=source, column="doc.query", min_chars=6))


def test_texts_with_half_characters_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "whole"}\n{"text": "half \\ud83d"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl: row 2: column 'text' holds half of a character"):
        read_texts(TextSpec(name="t", source=str(tmp_path / "a.jsonl")))
