"""The page of a study: what sets the arms apart, first in words, then in plots and tables."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from regrow.report import evaluation, palette
from regrow.report.render import as_yaml, render, unbroken
from regrow.report.study.cells import drift_points
from regrow.report.study.findings import Findings, at_largest, findings, is_sized, size_of
from regrow.report.study.plots import draw
from regrow.report.study.tables import cost_table, drift_table, health_table, pairs_table, scores_table

if TYPE_CHECKING:
    from regrow.study import StudyResult


def study_page(result: "StudyResult") -> str:
    """Lay out a study as one page.

    Args:
        result: every cell's evaluation, with drift and training logs where there are any.
    """
    rows = result.rows
    tuned = {row.arm: bool(row.seeds) for row in rows}
    styles = palette.arms(tuned)
    found = findings(result)
    seeds = sorted({seed for row in rows for seed in row.seeds})
    arms = len(tuned)
    sizes = list(dict.fromkeys(row.blocks for row in rows))
    drift = drift_points(result)
    return render(
        "study.html.jinja",
        figures=draw(result, styles, drift),
        title="regrow: report of a study",
        headline=unbroken(found.headline),
        lead=unbroken(found.lead),
        verdicts=_verdicts(found, result),
        scope=_scope(result, arms, sizes, seeds),
        reference=result.reference,
        scores=scores_table(result, styles),
        pairs=pairs_table(result.pairs, styles) if result.pairs else None,
        drift=drift_table(result, drift, styles),
        health=health_table(result, styles),
        cost=cost_table(result, styles),
        digests_list=_digests(result),
        facts=evaluation.facts(result.base),
        settings=as_yaml({"parameters": result.config}) if result.config else None,
    )


def _verdicts(found: Findings, result: "StudyResult") -> list[tuple[str, Sequence[tuple[str, str]], str]]:
    """Return title, arms with what is told, and CSS class of every kind of outcome; empty if nothing was compared."""
    if not result.pairs:
        return []
    return [
        (f"Better than {result.reference}", found.better, "passed"),
        (f"Worse than {result.reference}", found.worse, "failed"),
        ("No significant difference", found.undecided, "undecided"),
        *([("Not tested", found.unknown, "undecided")] if found.unknown else []),
    ]


def _scope(result: "StudyResult", arms: int, sizes: Sequence[int], seeds: Sequence[int]) -> str:
    parts = [
        f"{arms} arm{'s' if arms != 1 else ''}",
        f"{len(sizes)} size{'s' if len(sizes) != 1 else ''} of cut",
        *([f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''} of training"] if seeds else []),
        f"{len(result.outcomes)} models",
    ]
    items = ", ".join(f"{task} {score.samples:,}" for task, score in result.base.scores.items())
    largest = next((row.records for row in at_largest(result.rows) if row.seeds), None)
    trained = (
        f" Where no size is named, arms were trained on {size_of(largest)}." if is_sized(result.rows) else ""
    )
    return f"{', '.join(parts)}. Items: {items}.{trained}"


def _digests(result: "StudyResult") -> list[tuple[str, str]]:
    return [("unpruned", result.base.digest)] + [(one.cell.key, one.scores.digest) for one in result.outcomes]
