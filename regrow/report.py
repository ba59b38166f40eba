"""What a run found: a table for the terminal, and one HTML file for people.

The page needs nothing beside itself: styles and plots are inside, nothing is fetched. Text from models and
data is escaped by the template.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from regrow import __version__, figures

if TYPE_CHECKING:
    from jinja2 import Template

    from regrow.evaluate.scores import Scores
    from regrow.importance import LayerImportance
    from regrow.prune import PrunePlan
    from regrow.quality import GateResult
    from regrow.selfdata import SelfData, Shift
    from regrow.tune.record import TuningRecord

_TEMPLATE = "report.html.jinja"
_SHOWN_TEXT = 700
_SHOWN_SIZES = 12


class Details(TypedDict, total=False):
    """What the page tells beyond summary.json; a section whose part is missing is left out."""

    importance: Mapping[
        str, Any
    ]  # angular_distance [size - 1][start], block_influence [block], samples, tokens
    plan: Mapping[str, Any]  # removed [block], depth, criterion, score, text: what goes in words
    decisions: Mapping[str, Mapping[str, int]]  # by dataset: decision and number of records
    rewrites: Sequence[Mapping[str, Any]]  # dataset, instruction, input, reference, response, decision
    gates: Sequence[Mapping[str, Any]]  # as regrow.quality.GateResult
    shifts: Sequence[Mapping[str, Any]]  # as regrow.selfdata.Shift, with its summary
    logs: Mapping[str, Sequence[Mapping[str, Any]]]  # by dataset: step, loss
    tuning: Mapping[str, Mapping[str, Any]]  # by dataset: counts and settings of the tuning run
    merge: Mapping[
        str, Any
    ]  # tensors, linear, linear_share (of the weights), mean_angle and largest_angle, rad
    settings: Mapping[str, Any]  # the run's configuration, shown as YAML


def table(summary: Mapping[str, Any]) -> str:
    """Lay out the models of summary.json as plain text, one row a model.

    Scores are in percent with one standard error; recovery has its 95 % interval where there is one.
    """
    head, rows = _cells(summary["models"])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        aligned = [cells[0].ljust(widths[0])]
        aligned += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "  ".join(aligned).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])


def html(
    summary: Mapping[str, Any], figures: Mapping[str, str] | None = None, details: Details | None = None
) -> str:
    """Lay out a whole run as one page.

    Args:
        summary: the content of summary.json.
        figures: SVG by name (models, scores, heatmap, influence, decisions, loss); drawn where not given.
        details: what is told beyond the summary, see `Details`.
    """
    details = details or {}
    head, rows = _cells(summary["models"], intervals=False)
    settings = details.get("settings")
    return _render(
        title="regrow: report of a run",
        headline=headline(summary, details).replace(" %", "\u00a0%"),
        head=head,
        rows=rows,
        summary=summary,
        details=details,
        settings=_yaml(settings) if settings else None,
        figures=_draw(summary, details) | dict(figures or {}),
        models=summary["models"],
        colours=_colours(summary),
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
) -> str:
    """Lay out a pipeline run from what its steps returned; `data`, `gates` and `shifts` are in one order."""
    names = [gate.dataset for gate in gates]
    details = Details(
        importance=_importance_details(importance),
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
        shifts=[_shift_details(shift) for shift in shifts],
        logs={tuning.dataset: tuning.log for tuning in tunings},
        tuning={tuning.dataset: tuning.summary for tuning in tunings},
        merge=merging,
        settings=config,
    )
    return html(summary, None, details)


def importance_page(importance: "LayerImportance") -> str:
    """Draw a measurement of importance on a page of its own."""
    details = _importance_details(importance)
    return _render(
        title="Importance of blocks",
        details={"importance": details},
        figures=_draw_importance(details),
        summary={},
    )


def _importance_details(importance: "LayerImportance") -> dict[str, Any]:
    """Return what the page tells of a measurement: all but the units of width, and which runs are best."""
    from regrow.prune.plan import name_blocks
    from regrow.prune.units import format_units

    best = []
    for size in range(1, min(importance.blocks, _SHOWN_SIZES + 1)):
        start, distance = importance.best(size)
        run = range(start, start + size)
        best.append([size, format_units(run), name_blocks(importance.stack, run), f"{distance:.4f}"])
    return importance.model_dump(exclude={"width"}) | {"best": best}


def _draw_importance(importance: Mapping[str, Any], removed: Sequence[int] = ()) -> dict[str, str]:
    """Draw a measurement; `removed` are the blocks that were cut out."""
    curves = {"last token": importance["angular_distance"]}
    if every := importance.get("angular_distance_all_tokens"):
        curves["all tokens"] = every
    least = {
        name: [min(value for value in row if value is not None) for row in matrix[:-1]]
        for name, matrix in curves.items()
    }
    drawn = {
        "heatmap": figures.heatmap_svg(importance["angular_distance"], removed),
        "sizes": figures.sizes_svg(least, len(removed)),
        "influence": figures.influence_svg(importance["block_influence"], removed),
    }
    search = importance.get("search") or {}
    if search.get("perplexity"):
        drawn["trials_perplexity"] = figures.trials_svg(search["perplexity"], "perplexity")
    if search.get("task"):
        drawn["trials_task"] = figures.trials_svg(
            search["task"], f"score on {search['task_name']}", higher_is_better=True
        )
    return drawn


def shift_page(shift: "Shift") -> str:
    """Draw rewrites against references on a page of its own."""
    shifts = [_shift_details(shift)]
    return _render(
        title=f"Rewrites and references: {shift.dataset}",
        details={"shifts": shifts},
        figures=_draw_shifts(shifts),
        summary={},
    )


def _shift_details(shift: "Shift") -> dict[str, Any]:
    return shift.model_dump() | {"summary": shift.summary()}


def _draw_shifts(shifts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    shown = [one for one in shifts if one["rewrite_loss"]]
    return {"shift": figures.shift_svg(shown)} if shown else {}


def tuning_page(record: "TuningRecord") -> str:
    """Draw a tuning run on a page of its own."""
    drawn = {"loss": figures.loss_svg({record.dataset: record.log})}
    details = {"logs": {record.dataset: record.log}, "tuning": {record.dataset: record.summary}}
    return _render(title=f"Fine-tuning on {record.dataset}", details=details, figures=drawn, summary={})


def scores_page(scores: "Scores") -> str:
    """Draw the evaluation of one model on a page of its own."""
    model = scores.summary()
    head, rows = _cells([model])
    drawn = {"scores": figures.scores_svg([model])} if model["scores"] else {}
    return _render(
        title=f"Evaluation of {scores.name}",
        head=head,
        rows=rows,
        figures=drawn,
        details={},
        models=[model],
        colours=figures.colours([scores.name]),
        settings=_yaml(scores.settings),
        summary={},
    )


def selfdata_page(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw a rewritten set on a page of its own, with some of its rows."""
    name = str(summary.get("dataset") or summary.get("name") or "self-data")
    decisions = {name: summary.get("decisions") or {}}
    details = {
        "decisions": decisions,
        "rewrites": [{"dataset": name, **row} for row in sample_rewrites(rows)],
    }
    drawn = {"decisions": figures.decisions_svg(decisions)} if decisions[name] else {}
    entry = {
        "name": name,
        "records": summary.get("records"),
        "acceptance_rate": summary.get("acceptance_rate"),
        "acceptance_by_attempt": summary.get("acceptance_by_attempt", []),
    }
    return _render(title=f"Self-data: {name}", details=details, figures=drawn, summary={"datasets": [entry]})


def sample_rewrites(
    rows: Sequence[Mapping[str, Any]], rewritten: int = 3, kept: int = 1
) -> list[dict[str, Any]]:
    """Return a few rows for people to read: some that were rewritten, and some of every reason to keep."""
    left: dict[str, int] = {}
    chosen = []
    for row in rows:
        decision = str(row.get("decision", ""))
        if left.setdefault(decision, rewritten if decision == "rewritten" else kept):
            left[decision] -= 1
            chosen.append(dict(row))
    return sorted(chosen, key=lambda row: row["decision"] != "rewritten")


def headline(summary: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    """Say in two sentences what the run found, from its numbers."""
    by_name = {model["name"]: model for model in summary["models"]}
    base, pruned = by_name.get("base"), by_name.get("pruned")
    digest = summary.get("registered", {}).get("digest")
    best = next((model for model in summary["models"] if model["digest"] == digest), summary["models"][-1])
    said = []
    if base and best is not base:
        share = 100 * best["parameters"] / base["parameters"]
        if (recovered := best.get("recovery")) is not None:
            said.append(
                f"The {best['name']} model keeps {100 * recovered:.1f} % of the base model's mean score"
                f"{_interval(best, '95 % interval ')} with {share:.0f} % of its parameters."
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
            change = f"took perplexity from {_perplexity(base)} to {_perplexity(pruned)}"
            if best is not pruned and best.get("perplexity") is not None:
                change += f"; fine-tuning brought it to {_perplexity(best)}"
            told.append(change)
        if told:
            said.append(f"{cut} {' and '.join(told)}.")
    return " ".join(said) or f"{len(summary['models'])} models were evaluated."


def _cells(
    models: Sequence[Mapping[str, Any]], *, intervals: bool = True
) -> tuple[list[str], list[list[str]]]:
    tasks = list(dict.fromkeys(task for model in models for task in model.get("scores") or {}))
    head = ["model", "parameters", "FLOPs/token", "perplexity", *tasks, "recovery"]
    rows = [
        [
            str(model["name"]),
            _scaled(model["parameters"]),
            _scaled(model["flops_per_token"]),
            _perplexity(model),
            *(_score(model, task) for task in tasks),
            _recovery(model) + (_interval(model) if intervals else ""),
        ]
        for model in models
    ]
    if not any("recovery" in model for model in models):
        return head[:-1], [row[:-1] for row in rows]
    return head, rows


def _scaled(count: float) -> str:
    for size, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {sign}"
    return f"{count:.0f}"


def _perplexity(model: Mapping[str, Any]) -> str:
    value = model.get("perplexity")
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "infinite"
    return f"{value:.2f}" if value < 1000 else f"{value:.3g}"


def _score(model: Mapping[str, Any], task: str) -> str:
    value, error = figures.score_of(model, task)
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if error is None else f"{100 * value:.1f} ±{100 * error:.1f}"


def _recovery(model: Mapping[str, Any]) -> str:
    value = model.get("recovery")
    return "-" if value is None else f"{100 * value:.1f} %"


def _interval(model: Mapping[str, Any], name: str = "") -> str:
    low, high = model.get("recovery_interval") or (None, None)
    if model.get("recovery") is None or low is None or high is None:
        return ""
    return f" ({name}{100 * low:.0f} to {100 * high:.0f})"


def _draw(summary: Mapping[str, Any], details: Details) -> dict[str, str]:
    drawn = {}
    models = summary["models"]
    plan = details.get("plan")
    if models:
        drawn["models"] = figures.models_svg(models)
    if any(model.get("scores") for model in models):
        drawn["scores"] = figures.scores_svg(models)
    if importance := details.get("importance"):
        drawn |= _draw_importance(importance, tuple(plan["removed"]) if plan else ())
    if any((decisions := details.get("decisions", {})).values()):
        drawn["decisions"] = figures.decisions_svg(decisions)
    drawn |= _draw_shifts(details.get("shifts", ()))
    if any((logs := details.get("logs", {})).values()):
        drawn["loss"] = figures.loss_svg(logs)
    return drawn


def _colours(summary: Mapping[str, Any]) -> dict[str, str]:
    return figures.colours([str(model["name"]) for model in summary["models"]])


def _yaml(settings: Mapping[str, Any]) -> str:
    import json

    import yaml

    plain = json.loads(json.dumps(settings, default=str))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def _render(
    *, summary: Mapping[str, Any], details: Mapping[str, Any], figures: Mapping[str, str], **values: Any
) -> str:
    from markupsafe import Markup

    # Plots are our own markup; everything else is escaped.
    drawn = {name: Markup(svg) for name, svg in figures.items()}  # noqa: S704
    # The template refuses names it does not know, so that a misspelt one cannot pass for a missing part.
    parts = dict.fromkeys(Details.__annotations__) | dict(details)
    known = dict.fromkeys(("models", "datasets", "registered", "seconds", "peak_memory_bytes")) | dict(
        summary
    )
    return (
        _template().render(details=parts, summary=known, figures=drawn, version=__version__, **values) + "\n"
    )


@lru_cache(maxsize=1)
def _template() -> "Template":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    def short(text: object) -> str:
        plain = str(text or "").strip()
        return plain if len(plain) <= _SHOWN_TEXT else plain[:_SHOWN_TEXT].rstrip() + " …"

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}\u00a0%"

    def duration(seconds: float) -> str:
        minutes, rest = divmod(seconds, 60)
        return f"{minutes:.0f} min {rest:.0f} s" if minutes else f"{rest:.1f} s"

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"short": short, "percent": percent, "duration": duration}
    return environment.get_template(_TEMPLATE)
