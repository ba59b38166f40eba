"""What rows are means of: the models, and how far they have moved."""

from statistics import fmean
from typing import TYPE_CHECKING

from regrow.report import figures
from regrow.report.study.findings import at_largest

if TYPE_CHECKING:
    from regrow.evaluate.drift import Drift
    from regrow.study import Outcome, Row, StudyResult

# Enough for an interval that is drawn; each of some dozens takes that many.
_DRAWS = 2000


def outcomes_of(result: "StudyResult", row: "Row") -> list["Outcome"]:
    """Return the models that a row is a mean over."""
    key = (row.blocks, row.arm, row.records)
    return [one for one in result.outcomes if (one.cell.blocks, one.cell.arm, one.cell.records) == key]


def drifts_of(result: "StudyResult", row: "Row") -> list["Drift"]:
    """Return the distances from the unpruned model of the models that a row is a mean over."""
    return [one.drift for one in outcomes_of(result, row) if one.drift is not None]


def records_of(row: "Row") -> str:
    """Write the size of a row's training set; nothing for an untuned arm."""
    if not row.seeds:
        return ""
    return "all" if row.records is None else f"{row.records:,}"


def drift_points(result: "StudyResult") -> dict[str, list[figures.Point]]:
    """Return similarity, KL and agreement of every row, with intervals over questions; empty if unmeasured."""
    from regrow.evaluate.drift import estimate

    found: dict[str, list[figures.Point]] = {}
    for row in at_largest(result.rows):
        drifts = drifts_of(result, row)
        if not drifts:
            continue
        for name, scale in (("similarity", 1.0), ("agreement", 100.0), ("kl", 1.0)):
            lists = [getattr(one, name) for one in drifts]
            if any(not one for one in lists):
                continue
            if len({len(one) for one in lists}) == 1:
                values, weights = [fmean(column) for column in zip(*lists, strict=True)], drifts[0].tokens
            else:  # not the same questions: they cannot be paired
                values = [value for one in lists for value in one]
                weights = tuple(count for one in drifts for count in one.tokens)
            one = estimate(values, None if name == "similarity" else weights, draws=_DRAWS)
            low, high = (None if end is None else scale * end for end in (one.low, one.high))
            found.setdefault(name, []).append(
                figures.Point(row.arm, str(row.blocks), scale * one.value, low, high)
            )
    return found
