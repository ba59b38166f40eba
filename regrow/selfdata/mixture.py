"""Several sets as one, or a part of them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from regrow.errors import InputError
from regrow.lineage import describe_folder, material, record
from regrow.selfdata.store import SelfData, save


def mix(sets: Sequence[SelfData], out: Path, *, records: int | None = None) -> SelfData:
    """Join sets, and keep so many of the records.

    A record that is in several sets counts once. Which are kept depends on their ids alone: a smaller number gives a
    part of what a larger one gives, and every set is thinned alike, on average. Order is that of the sets.

    Args:
        sets: what `distill` or the gate wrote.
        out: the folder to write; an earlier one is replaced.
        records: how many are kept; all if not given.

    Raises:
        InputError: no set, or fewer records than wanted.
    """
    if not sets:
        raise InputError("mix: no sets; name at least one")
    rows = {row["id"]: row for one in sets for row in one.rows()}
    if records is not None:
        if records > len(rows):
            raise InputError(f"mix: {records} records are wanted and there are {len(rows)}; lower `records`")
        order = sorted(rows, key=lambda one: hashlib.sha256(one.encode()).digest())
        kept = set(order[:records])
        rows = {name: row for name, row in rows.items() if name in kept}
    families = {one.summary.get("family") for one in sets}
    details = {
        "family": families.pop() if len(families) == 1 else "mixed",
        "mixed_from": [one.digest for one in sets],
    }
    data = save(list(rows.values()), details, out)
    record(
        "mix", (data.folder, describe_folder(data.folder, "dataset", data.digest)),
        [material(one.folder, "dataset", digest=one.digest) for one in sets],
        parameters={"records": records}, inherit=[one.folder for one in sets],
    )  # fmt: skip
    return data
