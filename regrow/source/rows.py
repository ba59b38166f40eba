"""Rows of data files, and texts out of rows. A malformed file is named with its line."""

import csv
import gzip
import json
import random
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from regrow.errors import InputError
from regrow.files import read_json
from regrow.source import hub, local
from regrow.source.grammar import parse
from regrow.source.specs import TextSpec

Row = dict[str, Any]
_ABSENT = object()


class Damaged(NamedTuple):
    """What stands in the place of a row that cannot be read."""

    reason: str


def read_rows(source: str, sha256: str | None = None) -> list[Row]:
    """Return every row of a data source.

    Raises:
        InputError: the source cannot be had, is of an unknown format, empty or malformed (file:line).
    """
    rows = open_rows(source, sha256)
    return rows.to_list() if hasattr(rows, "to_list") else list(rows)


def open_rows(source: str, sha256: str | None = None) -> Sequence[Row]:
    """Return the rows of a data source, memory-mapped where the format allows, so that a sample stays cheap.

    Raises:
        InputError: as `read_rows`.
    """
    rows = open_damaged_rows(source, sha256)
    if isinstance(rows, list):
        for row in rows:
            if isinstance(row, Damaged):
                raise InputError(row.reason)
    return cast("Sequence[Row]", rows)


def open_damaged_rows(source: str, sha256: str | None = None) -> Sequence[Row | Damaged]:
    """Return the rows of a data source, with a `Damaged` in the place of each that cannot be read.

    Only damage that leaves the other rows whole is taken so: a line that is no JSON object or not UTF-8, a
    CSV row of another length. A file that is cut or of another format is an error all the same.

    Raises:
        InputError: the source cannot be had, is of an unknown format, empty or damaged as a whole.
    """
    parsed = parse(source)
    if parsed.kind == "hub":
        rows: Sequence[Row | Damaged] = hub.dataset(parsed)
    else:
        path = local.fetch(source, sha256)
        rows = _saved_dataset(path) if path.is_dir() else _file(path)
    if not len(rows):
        raise InputError(f"{source}: empty; it holds no rows")
    return rows


def read_texts(spec: TextSpec) -> list[str]:
    """Return unique texts in a seeded order, at most `spec.limit` of them.

    A smaller limit gives a prefix of what a larger one gives.

    Raises:
        InputError: as `read_rows`; a row lacks the column, or no text is long enough.
    """
    rows = open_rows(spec.source, spec.sha256)
    order = list(range(len(rows)))
    random.Random(spec.seed).shuffle(order)  # noqa: S311 - a reproducible order, not a secret
    texts: dict[str, None] = {}
    for number in order:
        text = lookup(rows[number], spec.column, _ABSENT)
        if text is _ABSENT:
            has = ", ".join(rows[number])
            raise InputError(f"{spec.source}: row {number + 1} has no column {spec.column!r}; it has {has}")
        if isinstance(text, str) and _has_surrogate(text):
            raise InputError(
                f"{spec.source}: row {number + 1}: column {spec.column!r} holds half of a character (a lone "
                "surrogate); mend the row"
            )
        if isinstance(text, str) and len(text.strip()) >= spec.min_chars:
            texts.setdefault(text.strip())
        if len(texts) == spec.limit:
            break
    if not texts:
        raise InputError(
            f"{spec.source}: no text of {spec.min_chars} characters in {spec.column!r}; lower min_chars"
        )
    return list(texts)


def lookup(row: Any, path: str, default: Any = None) -> Any:
    """Return what a dotted path reaches in a row; a column whose name has the dots itself comes first."""
    if isinstance(row, dict) and path in row:
        return row[path]
    value = row
    for part in path.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return default
    return value


def _file(path: Path) -> Sequence[Row | Damaged]:
    name = path.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz", ".ndjson")):
        return list(_json_lines(path))
    if name.endswith((".json", ".json.gz")):
        return _json(path)
    if name.endswith(".csv"):
        return list(_csv(path))
    if name.endswith((".parquet", ".arrow")):
        return _columnar(path)
    raise InputError(f"{path}: unknown format; use .jsonl, .jsonl.gz, .json, .parquet, .csv or .arrow")


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


def _json_lines(path: Path) -> Iterator[Row | Damaged]:
    number = 0
    try:
        with _open(path) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _json_line(line, path, number)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}:{number + 1}: the gzip file is damaged ({error}); fetch it again") from None


def _json_line(line: bytes, path: Path, number: int) -> Row | Damaged:
    try:
        value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except json.JSONDecodeError as error:
        return Damaged(f"{path}:{number}: not valid JSON ({error.msg} at column {error.colno})")
    except UnicodeDecodeError:
        return Damaged(f"{path}:{number}: not UTF-8 text; convert the file")
    except RecursionError:
        return Damaged(f"{path}:{number}: JSON nested too deeply; flatten it")
    except ValueError as error:  # a number of thousands of digits
        return Damaged(f"{path}:{number}: not valid JSON ({error})")
    if not isinstance(value, dict):
        return Damaged(f"{path}:{number}: a JSON object is expected, found {type(value).__name__}")
    return value


def _json(path: Path) -> list[Row | Damaged]:
    try:
        with _open(path) as stream:
            text = stream.read().decode("utf-8-sig")
        rows = json.loads(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); convert the file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: the gzip file is damaged ({error}); fetch it again") from None
    except json.JSONDecodeError as error:
        # Many public sets are JSON Lines under the name .json.
        if text.lstrip().startswith("{"):
            return list(_json_lines(path))
        raise InputError(
            f"{path}:{error.lineno}: not valid JSON ({error.msg} at column {error.colno})"
        ) from None
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if isinstance(rows, dict) and "\n" not in text.strip():
        return [rows]
    if not isinstance(rows, list):
        raise InputError(f"{path}:1: a list of JSON objects is expected, found {type(rows).__name__}")
    return [
        row
        if isinstance(row, dict)
        else Damaged(f"{path}: item {number}: a JSON object is expected, found {type(row).__name__}")
        for number, row in enumerate(rows, start=1)
    ]


def _csv(path: Path) -> Iterator[Row | Damaged]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    # Bytes that are not UTF-8 come as lone surrogates, so that the row they stand in can be named.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise InputError(f"{path}:1: not valid CSV ({error})") from None
        if any(map(_has_surrogate, header)):
            raise InputError(f"{path}:1: not UTF-8 text; convert the file")
        if len(set(header)) != len(header):
            raise InputError(f"{path}:1: two columns have the same name; rename one")
        while True:
            before = reader.line_num
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if reader.line_num > before + 1 or "unexpected end of data" in str(error):
                    # An open quote has taken in the rows after it; nobody knows where the next one starts.
                    raise InputError(
                        f"{path}:{reader.line_num}: not valid CSV ({error}); a quote stands open since line "
                        f"{before + 1}"
                    ) from None
                yield Damaged(f"{path}:{reader.line_num}: not valid CSV ({error})")
                continue
            if cells is None:
                return
            if cells:
                yield _csv_row(header, cells, f"{path}:{reader.line_num}")


def _csv_row(header: list[str], cells: list[str], place: str) -> Row | Damaged:
    if len(cells) != len(header):
        return Damaged(f"{place}: {len(cells)} fields, but the header has {len(header)}")
    for name, cell in zip(header, cells, strict=True):
        if _has_surrogate(cell):
            return Damaged(f"{place}: field {name!r} is not UTF-8 text; convert the file")
    return dict(zip(header, cells, strict=True))


def _has_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text)


def _columnar(path: Path) -> list[Row | Damaged]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix.lower() == ".parquet":
            return _table_rows(pq.read_table(path), path)
        with pa.memory_map(str(path)) as stream:
            try:
                table = pa.ipc.open_stream(stream).read_all()
            except pa.ArrowInvalid:
                stream.seek(0)
                table = pa.ipc.open_file(stream).read_all()
            return _table_rows(table, path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{path}: not a readable {path.suffix} file ({str(error).splitlines()[0]})"
        ) from None


def _table_rows(table: Any, path: Path) -> list[Row | Damaged]:
    try:
        return cast("list[Row | Damaged]", table.to_pylist())
    except UnicodeDecodeError:
        return [_table_row(table.slice(i, 1), f"{path}: row {i + 1}") for i in range(table.num_rows)]


def _table_row(one: Any, place: str) -> Row | Damaged:
    row: Row = {}
    for name in one.column_names:
        try:
            row[name] = one.column(name)[0].as_py()
        except UnicodeDecodeError:
            return Damaged(f"{place}: field {name!r} is not UTF-8 text; write the file again")
    return row


def _saved_dataset(path: Path) -> Sequence[Row]:
    if (path / "dataset_dict.json").exists():
        splits = ", ".join(read_json(path / "dataset_dict.json").get("splits", []))
        raise InputError(f"{path}: holds several splits ({splits}); name the folder of one")
    if not (path / "state.json").exists():
        raise InputError(f"{path}: not a folder saved by `datasets` (no state.json); name a data file in it")
    from datasets import Dataset

    try:
        return cast("Sequence[Row]", Dataset.load_from_disk(str(path)))
    except Exception as error:  # the library raises many kinds for damaged folders
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{path}: this saved dataset cannot be read ({reason})") from None
