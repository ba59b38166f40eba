"""What a page tells beyond summary.json, and the plots of it."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from regrow.report import figures

if TYPE_CHECKING:
    from regrow.importance import LayerImportance
    from regrow.selfdata import Shift

_SHOWN_SIZES = 12


class Details(TypedDict, total=False):
    """A section whose part is missing is left out."""

    # angular_distance [size - 1][start], block_influence [block], samples, tokens
    importance: Mapping[str, Any]
    # removed [block], depth, criterion, score, text: what goes in words
    plan: Mapping[str, Any]
    decisions: Mapping[str, Mapping[str, int]]  # by dataset: decision and number of records
    rewrites: Sequence[Mapping[str, Any]]  # dataset, instruction, input, reference, response, decision
    gates: Sequence[Mapping[str, Any]]  # as regrow.quality.GateResult
    shifts: Sequence[Mapping[str, Any]]  # as regrow.selfdata.Shift, with its summary
    logs: Mapping[str, Sequence[Mapping[str, Any]]]  # by dataset: step, loss
    tuning: Mapping[str, Mapping[str, Any]]  # by dataset: counts and settings of the tuning run
    # tensors, linear, linear_share (of the weights), mean_angle and largest_angle, rad
    merge: Mapping[str, Any]
    settings: Mapping[str, Any]  # the run's configuration, shown as YAML


def whole(details: Mapping[str, Any]) -> dict[str, Any]:
    """Return details with none for what is missing."""
    return dict.fromkeys(Details.__annotations__) | dict(details)


def importance_details(importance: "LayerImportance") -> dict[str, Any]:
    """Return what the page tells of a measurement: all but the units of width, and which runs are best."""
    from regrow.prune.plan import name_blocks
    from regrow.prune.units import format_units

    best = []
    for size in range(1, min(importance.blocks, _SHOWN_SIZES + 1)):
        start, distance = importance.best(size)
        run = range(start, start + size)
        best.append([size, format_units(run), name_blocks(importance.stack, run), f"{distance:.4f}"])
    return importance.model_dump(exclude={"width"}) | {"best": best}


def draw_importance(importance: Mapping[str, Any], removed: Sequence[int] = ()) -> dict[str, str]:
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


def shift_details(shift: "Shift") -> dict[str, Any]:
    """Return what the page tells of rewrites and references."""
    return shift.model_dump() | {"summary": shift.summary()}


def draw_shifts(shifts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Draw the sets of which something was rewritten."""
    shown = [one for one in shifts if one["rewrite_loss"]]
    return {"shift": figures.shift_svg(shown)} if shown else {}


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
