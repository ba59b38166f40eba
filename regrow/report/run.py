"""The page of a run: its models first, then each stage."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from regrow.report import evaluation, figures, palette
from regrow.report.details import (
    Details,
    draw_importance,
    draw_shifts,
    importance_details,
    sample_rewrites,
    shift_details,
    whole,
)
from regrow.report.numbers import perplexity
from regrow.report.render import as_yaml, render, unbroken
from regrow.report.table import Cell, Line, Table, interval_of, model_cells

if TYPE_CHECKING:
    from regrow.evaluate.drift import Drift
    from regrow.evaluate.scores import Scores
    from regrow.evaluate.speculative import Speculation
    from regrow.evaluate.speed import Speed
    from regrow.importance import LayerImportance
    from regrow.prune import PrunePlan
    from regrow.quality import GateResult
    from regrow.selfdata import SelfData, Shift
    from regrow.tune.record import TuningRecord

_KEYS = ("models", "datasets", "registered", "seconds", "peak_memory_bytes")


def html(
    summary: Mapping[str, Any],
    figures: Mapping[str, str] | None = None,
    details: Details | None = None,
    *,
    scores: Sequence["Scores"] = (),
    drifts: Sequence["Drift"] = (),
    speeds: Sequence["Speed"] = (),
    speculation: "Speculation | None" = None,
) -> str:
    """Lay out a whole run as one page.

    Args:
        summary: the content of summary.json.
        figures: SVG by name (models, scores, heatmap, influence, decisions, loss, ...); drawn where not given.
        details: what is told beyond the summary, see `Details`.
        scores: of the models, the unpruned one first: differences to it are told, and cost against quality.
        drifts: against the unpruned model.
        speeds: measured cost, the unpruned model first.
        speculation: a model as a draft for the unpruned one.
    """
    details = details or {}
    named = [summary["models"], [one.model_dump() for one in (*scores, *drifts, *speeds)]]
    styles = palette.models(list(dict.fromkeys(str(one["name"]) for many in named for one in many)))
    found = evaluation.comparisons(scores)
    drawn = _draw(summary, details)
    if found:
        drawn["differences"] = evaluation.draw_differences(found, styles)
        if len({one.flops_per_token for one in scores}) > 1:
            drawn["pareto"] = evaluation.draw_pareto(scores, styles)
    if similarity := evaluation.draw_similarity(drifts, styles):
        drawn["similarity"] = similarity
    settings = details.get("settings")
    return render(
        "run.html.jinja",
        figures=drawn | dict(figures or {}),
        title="regrow: report of a run",
        headline=unbroken(headline(summary, details)),
        scores=models_table(summary, styles),
        summary=dict.fromkeys(_KEYS) | dict(summary),
        details=whole(details),
        differences=evaluation.differences_table(found, styles) if found else None,
        by_task=evaluation.tasks_table(found, styles) if found else None,
        drift=evaluation.drift_table(drifts, styles) if drifts else None,
        health=evaluation.health_table(drifts, styles) if drifts else None,
        speed=evaluation.speed_table(speeds, styles) if speeds else None,
        size=evaluation.size_table(speeds, styles) if speeds else None,
        drafting=evaluation.drafting_table([speculation]) if speculation else None,
        facts=evaluation.facts(scores[0]) if scores else {},
        settings=as_yaml({"parameters": settings}) if settings else None,
    )


def run_page(
    summary: Mapping[str, Any],
    importance: "LayerImportance",
    plan: "PrunePlan",
    data: Sequence["SelfData"],
    gates: Sequence["GateResult"],
    shifts: Sequence["Shift"],
    tunings: Sequence["TuningRecord"],
    merging: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    scores: Sequence["Scores"] = (),
    drifts: Sequence["Drift"] = (),
    speeds: Sequence["Speed"] = (),
    speculation: "Speculation | None" = None,
) -> str:
    """Lay out a pipeline run from what its steps returned; `data`, `gates` and `shifts` are in one order.

    `scores` and `speeds` begin with the unpruned model.
    """
    names = [gate.dataset for gate in gates]
    details = Details(
        importance=importance_details(importance),
        plan={
            "removed": plan.removed,
            "depth": plan.depth,
            "criterion": plan.criterion,
            "score": plan.score,
            "text": plan.describe(),
        },
        decisions={name: one.summary.get("decisions", {}) for name, one in zip(names, data, strict=True)},
        rewrites=[
            {"dataset": name, **row}
            for name, one in zip(names, data, strict=True)
            for row in sample_rewrites(one.rows())
        ],
        gates=[gate.model_dump(mode="json") for gate in gates],
        shifts=[shift_details(shift) for shift in shifts],
        logs={tuning.dataset: tuning.log for tuning in tunings},
        tuning={tuning.dataset: tuning.summary for tuning in tunings},
        merge=merging,
        settings=config,
    )
    return html(summary, None, details, scores=scores, drifts=drifts, speeds=speeds, speculation=speculation)


def models_table(summary: Mapping[str, Any], styles: Mapping[str, palette.Style]) -> Table:
    """The models of a run; the registered one is shaded."""
    models = summary["models"]
    head, rows = model_cells(models)
    digest = (summary.get("registered") or {}).get("digest")
    lines = [
        Line(
            [Cell(row[0], styles[row[0]]), *map(unbroken, row[1:])],
            chosen=bool(digest) and model["digest"] == digest,
        )
        for model, row in zip(models, rows, strict=True)
    ]
    note = "Scores in percent ± one standard error over items."
    if "recovery" in head:
        note += (
            " Recovery is the mean score over the base model's, with a 95 % interval from a paired bootstrap over "
            "items; it does not cover other training seeds."
        )
    return Table(
        head, [("", lines)], unbroken(note) + (" The shaded row is the registered model." if digest else "")
    )


def headline(summary: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """Say in two sentences what the run found, from its numbers."""
    by_name = {model["name"]: model for model in summary["models"]}
    base, pruned = by_name.get("base"), by_name.get("pruned")
    digest = (summary.get("registered") or {}).get("digest")
    best = next((model for model in summary["models"] if model["digest"] == digest), summary["models"][-1])
    said = []
    if base and best is not base:
        share = 100 * best["parameters"] / base["parameters"]
        if (recovered := best.get("recovery")) is not None:
            said.append(
                f"The {best['name']} model keeps {100 * recovered:.1f} % of the base model's mean score"
                f"{interval_of(best, '95 % interval ')} with {share:.0f} % of its parameters."
            )
        else:
            said.append(f"The {best['name']} model has {share:.0f} % of the base model's parameters.")
    if base and pruned:
        plan = details.get("plan")
        gone = len(plan["removed"]) if plan else 0
        cut = f"Removing {gone} of {plan['depth']} blocks" if plan and gone else "Pruning"
        told = []
        if pruned.get("recovery") is not None:
            told.append(f"left {100 * pruned['recovery']:.1f} % of the score")
        if pruned.get("perplexity") is not None and base.get("perplexity") is not None:
            ends = perplexity(base["perplexity"]), perplexity(pruned["perplexity"])
            change = f"took perplexity from {ends[0]} to {ends[1]}"
            if best is not pruned and best.get("perplexity") is not None:
                change += f"; fine-tuning brought it to {perplexity(best['perplexity'])}"
            told.append(change)
        if told:
            said.append(f"{cut} {' and '.join(told)}.")
    return " ".join(said) or f"{len(summary['models'])} models were evaluated."


def _draw(summary: Mapping[str, Any], details: Details) -> dict[str, str]:
    drawn = {}
    models = summary["models"]
    plan = details.get("plan")
    if models:
        drawn["models"] = figures.models_svg(models)
    if any(model.get("scores") for model in models):
        drawn["scores"] = figures.scores_svg(models)
    if importance := details.get("importance"):
        drawn |= draw_importance(importance, tuple(plan["removed"]) if plan else ())
    if any((decisions := details.get("decisions", {})).values()):
        drawn["decisions"] = figures.decisions_svg(decisions)
    drawn |= draw_shifts(details.get("shifts", ()))
    if any((logs := details.get("logs", {})).values()):
        drawn["loss"] = figures.loss_svg(logs)
    return drawn
