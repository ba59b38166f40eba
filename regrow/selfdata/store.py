"""Rewritten sets on disk: the finished folder, and the shards of a run that is under way."""

import csv
import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from regrow.errors import InputError
from regrow.files import (
    atomic_file,
    atomic_folder,
    canonical_digest,
    full_disk_is_clear,
    read_json,
    write_json,
)
from regrow.selfdata.prompts import FAMILIES
from regrow.selfdata.rule import DECISIONS, acceptance_rate

if TYPE_CHECKING:
    import pandas as pd

    from regrow.records import Record

log = logging.getLogger(__name__)

COLUMNS = {
    "id": "string",
    "instruction": "string",
    "input": "string",
    "reference": "string",
    "answer": "string",
    "source": "string",
    "response": "string",
    "rewrite": "string",
    "engine": "string",
    "decision": "string",
    "attempts": "int64",
    "prompt_tokens": "int64",
    "response_tokens": "int64",
    "seed": "int64",
}


# What one set can be exported to and read from.
SUFFIXES = (".jsonl", ".parquet", ".csv")


class SelfData(BaseModel):
    """A rewritten set on disk: a folder with `records.parquet` and `summary.json`, or a single file."""

    model_config = ConfigDict(frozen=True)

    folder: Path = Field(description="folder with records.parquet and summary.json; or the single file")
    digest: str = Field(description="SHA-256 over the rows in canonical JSON, hexadecimal")
    summary: dict[str, Any] = Field(description="counts, acceptance rate, tokens, seconds, settings")

    @classmethod
    def open(cls, path: str | Path, family: str | None = None) -> "SelfData":
        """Read and check a folder, or a file that `export` wrote (.jsonl, .parquet or .csv).

        A file has the same digest as the folder it came from. It says nothing of template, model and
        seconds, so its summary has only what the rows tell, and `family`, which the caller must know.

        Args:
            path: the folder or the file.
            family: choice, math, text or open; for a file, whose rows do not say it.

        Raises:
            InputError: a file is missing or damaged, the records are not those of the summary, or the family
                of a file is not given.
        """
        path = Path(path)
        if path.suffix.lower() in SUFFIXES and not path.is_dir():
            return cls._open_file(path, family)
        summary = read_json(path / "summary.json")
        digest = canonical_digest(read_parquet(path / "records.parquet"))
        if not isinstance(summary, dict) or summary.get("digest") != digest:
            raise InputError(f"{path}: records.parquet is not what summary.json describes; generate it again")
        return cls(folder=path.absolute(), digest=digest, summary=summary)

    @classmethod
    def _open_file(cls, file: Path, family: str | None) -> "SelfData":
        if family not in FAMILIES:
            raise InputError(
                f"{file}: a single file does not say how its final answers are compared; give family: "
                f"{', '.join(FAMILIES)}"
            )
        rows = read_file(file)
        details: dict[str, Any] = {"family": family}
        if len(engines := {row["engine"] for row in rows}) == 1:
            details["engine"] = engines.pop()
        summary = _summary(rows, details)
        return cls(folder=file.absolute(), digest=summary["digest"], summary=summary)

    def as_folder(self, out: Path) -> "SelfData":
        """Write the set as a folder, as the pipeline's steps store it."""
        return save(self.rows(), self.summary, out)

    def rows(self) -> list[dict[str, Any]]:
        """Every record as a dictionary of plain values."""
        if self.folder.suffix.lower() in SUFFIXES and not self.folder.is_dir():
            return read_file(self.folder)
        return read_parquet(self.folder / "records.parquet")

    def table(self) -> "pd.DataFrame":
        """The records as a data frame."""
        import pandas as pd

        return pd.DataFrame(self.rows(), columns=pd.Index(COLUMNS))


def save(rows: list[dict[str, Any]], details: dict[str, Any], out: Path) -> SelfData:
    """Write a set, atomically, in place of an earlier one.

    Args:
        rows: the records, with the columns of `COLUMNS`.
        details: what the summary holds besides the counts, which are made from the rows.
        out: the folder to write.
    """
    summary = _summary(rows, details)
    with atomic_folder(out, replace=True) as scratch:
        write_parquet(scratch / "records.parquet", rows)
        write_json(scratch / "summary.json", summary)
    return SelfData(folder=out.absolute(), digest=summary["digest"], summary=summary)


def _summary(rows: list[dict[str, Any]], details: dict[str, Any]) -> dict[str, Any]:
    counted = {
        "records": len(rows),
        "decisions": dict(sorted(Counter(row["decision"] for row in rows).items())),
        "acceptance_rate": acceptance_rate(rows),
    }
    rest = {name: value for name, value in details.items() if name not in counted}
    return {**counted, **rest, "digest": canonical_digest(rows)}


def export(data: SelfData, file: Path) -> Path:
    """Write a set as one file: the fields and types of `COLUMNS`, by the suffix JSONL, Parquet or CSV.

    The file is UTF-8, JSONL and CSV with a line feed after each record, CSV with quotes around every text and
    a header. A null answer, which CSV does not know, is an empty field there; no answer is the empty text.

    Raises:
        InputError: the suffix is another.
    """
    rows = data.rows()
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{file}: unknown format; use {', '.join(SUFFIXES)}")
    with atomic_file(file) as scratch:
        if suffix == ".parquet":
            write_parquet(scratch, rows)
        elif suffix == ".jsonl":
            with scratch.open("w", encoding="utf-8", newline="") as stream:
                for row in rows:
                    stream.write(json.dumps(_in_order(row), ensure_ascii=False) + "\n")
        else:
            with scratch.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(
                    stream, list(COLUMNS), quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n"
                )
                writer.writeheader()
                writer.writerows(_in_order(row) for row in rows)
    return file


def read_file(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file that `export` wrote, checked field by field.

    Raises:
        InputError: it cannot be read, or a row lacks a field, has one of another type, an id that is not its
            content's or that came before.
    """
    from regrow.source import read_rows

    ids: set[str] = set()
    rows = []
    for number, found in enumerate(read_rows(str(file)), start=1):
        row = _typed(found, f"{file}: row {number}")
        if row["id"] in ids:
            raise InputError(f"{file}: row {number}: id {row['id']} came before; remove one of the two")
        ids.add(row["id"])
        rows.append(row)
    return rows


def _typed(found: dict[str, Any], place: str) -> dict[str, Any]:
    from pydantic import ValidationError

    from regrow.records import Record

    if missing := [name for name in COLUMNS if name not in found]:
        raise InputError(
            f"{place}: no field {', '.join(missing)}; a file of self-data has {', '.join(COLUMNS)}"
        )
    row = {name: _value(found[name], name, kind, place) for name, kind in COLUMNS.items()}
    if row["decision"] not in DECISIONS:
        raise InputError(f"{place}: decision is {row['decision']!r}; use one of {'; '.join(DECISIONS)}")
    try:
        Record(**{name: row[name] for name in Record.model_fields})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "id"
        raise InputError(f"{place}: {name}: {first['msg']}; export the set again") from None
    return row


def _value(value: Any, name: str, kind: str, place: str) -> Any:
    if name == "answer" and value in (None, ""):
        return None
    if kind == "string" and isinstance(value, str):
        if not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value):
            raise InputError(f"{place}: {name} holds half of a character (a lone surrogate); mend the row")
        return value
    if kind == "int64" and not isinstance(value, bool):
        if isinstance(value, int) and abs(value) < 2**63:
            return value
        if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value, re.ASCII):
            return int(value)
    wanted = "text" if kind == "string" else "a whole number"
    raise InputError(f"{place}: {name} is not {wanted} but {type(value).__name__} {str(value)[:40]!r}")


def _in_order(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in COLUMNS}


def write_shard(file: Path, header: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write a finished shard, atomically: its header, then its rows, as JSON lines."""
    with atomic_file(file) as scratch:
        lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in (header, *rows)]
        scratch.write_text("".join(lines), encoding="utf-8")


def read_shard(file: Path, part: Sequence["Record"]) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """Return a finished shard, or None when there is none or it is damaged."""
    try:
        # Not splitlines(): U+2028 and its kin stand unescaped inside JSON strings.
        header, *rows = (json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line)
        whole = [row["id"] for row in rows] == [record.id for record in part]
        whole = (
            whole and all(set(row) == set(COLUMNS) for row in rows) and {"tokens", "seconds"} <= set(header)
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        log.warning("%s: damaged; this shard is generated again", file)
        return None
    return header, rows


def write_parquet(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with the columns and types of `COLUMNS`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
    with full_disk_is_clear(file):
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)


def read_parquet(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a Parquet file.

    Raises:
        InputError: it is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.read_table(file).to_pylist()
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: cannot be read as Parquet ({error}); generate it again") from None
    return rows
