"""Rewritten sets on disk: the finished folder, and the shards of a run that is under way."""

import json
import logging
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
from regrow.selfdata.rule import acceptance_rate

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
    "engine": "string",
    "decision": "string",
    "attempts": "int64",
    "prompt_tokens": "int64",
    "response_tokens": "int64",
    "seed": "int64",
}


class SelfData(BaseModel):
    """A rewritten set on disk: `records.parquet` and `summary.json`."""

    model_config = ConfigDict(frozen=True)

    folder: Path = Field(description="folder with records.parquet and summary.json")
    digest: str = Field(description="SHA-256 over the rows in canonical JSON, hexadecimal")
    summary: dict[str, Any] = Field(description="counts, acceptance rate, tokens, seconds, settings")

    @classmethod
    def open(cls, folder: str | Path) -> "SelfData":
        """Read and check a folder.

        Raises:
            InputError: a file is missing or damaged, or the records are not those of the summary.
        """
        folder = Path(folder)
        summary = read_json(folder / "summary.json")
        digest = canonical_digest(read_parquet(folder / "records.parquet"))
        if not isinstance(summary, dict) or summary.get("digest") != digest:
            raise InputError(
                f"{folder}: records.parquet is not what summary.json describes; generate it again"
            )
        return cls(folder=folder.absolute(), digest=digest, summary=summary)

    def rows(self) -> list[dict[str, Any]]:
        """Every record as a dictionary of plain values."""
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
    digest = canonical_digest(rows)
    summary = {
        "records": len(rows),
        "decisions": dict(sorted(Counter(row["decision"] for row in rows).items())),
        "acceptance_rate": acceptance_rate(rows),
        **details,
        "digest": digest,
    }
    with atomic_folder(out, replace=True) as scratch:
        write_parquet(scratch / "records.parquet", rows)
        write_json(scratch / "summary.json", summary)
    return SelfData(folder=out.absolute(), digest=digest, summary=summary)


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
