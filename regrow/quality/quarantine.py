"""The quarantine file: every row that offends a check, for a person to read.

One JSON object a line: all fields of the row, with personal data and keys masked, then `failed`, the names
of the checks that it offends, and `removed`, whether it was taken out of the set.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from regrow.files import atomic_file
from regrow.quality.personal import mask

CONTAMINATION = "contamination"


def write(
    file: Path, rows: Sequence[dict[str, Any]], failed: Mapping[int, Sequence[str]], removed: set[int]
) -> None:
    """Write the offending rows in their order; a file without rows is empty.

    Args:
        file: the JSONL file.
        rows: every row of the set.
        failed: names of the checks that a row offends, by its number.
        removed: numbers of the rows that were taken out.
    """
    with atomic_file(file) as scratch, scratch.open("w", encoding="utf-8") as stream:
        for number in sorted(failed):
            entry = {name: _masked(name, value) for name, value in rows[number].items()}
            entry |= {"failed": list(failed[number]), "removed": number in removed}
            stream.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _masked(name: str, value: Any) -> Any:
    # An id is a digest, by which the row is found again; one in a hundred thousand looks like a card's number.
    return mask(value) if isinstance(value, str) and name != "id" else value
