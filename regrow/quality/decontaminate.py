"""Training rows that are evaluation items in disguise are taken out."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from regrow.quality.frame import contaminated
from regrow.selfdata import store
from regrow.selfdata.store import SelfData

log = logging.getLogger(__name__)

_COUNTS = {"records", "decisions", "acceptance_rate", "digest"}


def without_contamination(data: SelfData, texts: Iterable[str], out: Path, *, words: int = 13) -> SelfData:
    """Write the set again without the rows that share wording with evaluation items.

    Args:
        data: the set.
        texts: the evaluation items.
        out: the folder to write.
        words: successive words that make an overlap (see `regrow.records.decontaminate`).
    """
    rows = data.rows()
    bad = contaminated(rows, texts, words)
    clean = [row for row, found in zip(rows, bad, strict=True) if not found]
    if len(clean) < len(rows):
        log.warning("%d of %d records share wording with evaluation items; left out", sum(bad), len(rows))
    details = details_without_counts(data)
    return store.save(clean, details | {"contaminated": sum(bad), "before": data.digest}, out)


def details_without_counts(data: SelfData) -> dict[str, Any]:
    """Return what a summary says beside the counts, which `store.save` makes from the rows again."""
    return {key: value for key, value in data.summary.items() if key not in _COUNTS}
