"""Pages of single results, for the dashboard and for commands that run one stage."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from regrow.report import evaluation, figures, palette
from regrow.report.details import (
    draw_importance,
    draw_shifts,
    importance_details,
    sample_rewrites,
    shift_details,
    whole,
)
from regrow.report.render import as_yaml, render
from regrow.report.run import models_table
from regrow.report.table import Table

if TYPE_CHECKING:
    from regrow.evaluate.against import Measures
    from regrow.evaluate.drift import Drift
    from regrow.evaluate.scores import Scores
    from regrow.importance import LayerImportance
    from regrow.selfdata import Shift
    from regrow.tune.record import TuningRecord

_TABLES = ("scores", "drift", "health", "speed", "size", "drafting")


def importance_page(importance: "LayerImportance") -> str:
    """Draw a measurement of importance on a page of its own."""
    details = importance_details(importance)
    return _page("Importance of blocks", draw_importance(details), details={"importance": details})


def shift_page(shift: "Shift") -> str:
    """Draw rewrites against references on a page of its own."""
    shifts = [shift_details(shift)]
    return _page(f"Rewrites and references: {shift.dataset}", draw_shifts(shifts), details={"shifts": shifts})


def tuning_page(record: "TuningRecord") -> str:
    """Draw a tuning run on a page of its own."""
    drawn = {"loss": figures.loss_svg({record.dataset: record.log})}
    details = {"logs": {record.dataset: record.log}, "tuning": {record.dataset: record.summary}}
    return _page(f"Fine-tuning on {record.dataset}", drawn, details=details)


def scores_page(scores: "Scores") -> str:
    """Draw the evaluation of one model on a page of its own."""
    model = scores.summary()
    return _page(
        f"Evaluation of {scores.name}",
        {"scores": figures.scores_svg([model])} if model["scores"] else {},
        scores=models_table({"models": [model]}, palette.models([scores.name])),
        settings=as_yaml(scores.settings),
    )


def drift_page(drift: "Drift") -> str:
    """Draw a model's distance from the unpruned one on a page of its own."""
    styles = palette.models([drift.name])
    similarity = evaluation.draw_similarity([drift], styles)
    return _page(
        f"Drift of {drift.name} from the unpruned model",
        {"similarity": similarity} if similarity else {},
        drift=evaluation.drift_table([drift], styles),
        health=evaluation.health_table([drift], styles),
        settings=as_yaml(drift.settings),
    )


def measures_page(measures: "Measures") -> str:
    """Draw drift, measured cost and drafting of models on a page of their own."""
    drifts, speeds = measures.drifts, measures.speeds
    styles = palette.models(
        list(dict.fromkeys([*(one.name for one in speeds), *(one.name for one in drifts)]))
    )
    similarity = evaluation.draw_similarity(drifts, styles)
    return _page(
        "Drift and cost",
        {"similarity": similarity} if similarity else {},
        drift=evaluation.drift_table(drifts, styles) if drifts else None,
        health=evaluation.health_table(drifts, styles) if drifts else None,
        speed=evaluation.speed_table(speeds, styles) if speeds else None,
        size=evaluation.size_table(speeds, styles) if speeds else None,
        drafting=evaluation.drafting_table(measures.drafts) if measures.drafts else None,
    )


def selfdata_page(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw a rewritten set on a page of its own, with some of its rows."""
    name = str(summary.get("dataset") or summary.get("name") or "self-data")
    decisions = {name: summary.get("decisions") or {}}
    entry = {
        "name": name,
        "records": summary.get("records"),
        "acceptance_rate": summary.get("acceptance_rate"),
        "acceptance_by_attempt": summary.get("acceptance_by_attempt", []),
    }
    return _page(
        f"Self-data: {name}",
        {"decisions": figures.decisions_svg(decisions)} if decisions[name] else {},
        details={
            "decisions": decisions,
            "rewrites": [{"dataset": name, **row} for row in sample_rewrites(rows)],
        },
        datasets=[entry],
    )


def _page(
    title: str,
    drawn: Mapping[str, str],
    *,
    details: Mapping[str, Any] | None = None,
    datasets: Sequence[Mapping[str, Any]] = (),
    settings: str | None = None,
    **tables: Table | None,
) -> str:
    return render(
        "page.html.jinja",
        figures=drawn,
        title=title,
        details=whole(details or {}),
        datasets=datasets,
        settings=settings,
        **dict.fromkeys(_TABLES) | tables,
    )
