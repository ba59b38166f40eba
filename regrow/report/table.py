"""Tables: the models of a run as plain text, and what the pages show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from regrow.report.numbers import percent, perplexity, scaled, score_of
from regrow.report.palette import Style


@dataclass(frozen=True)
class Cell:
    """A cell that is more than text."""

    text: str
    style: Style | None = None  # the arm's or model's marker stands before the text
    kind: str = ""  # CSS class


@dataclass(frozen=True)
class Line:
    """A row of a table."""

    cells: Sequence[Cell | str]
    chosen: bool = False  # shaded


@dataclass(frozen=True)
class Table:
    """A table of a page."""

    head: Sequence[str]
    # Rows under one label; a table without groups has one group without a label.
    groups: Sequence[tuple[str, Sequence[Line]]]
    note: str = ""
    name: str = field(default="", kw_only=True)  # of the column with the groups' labels


def table(summary: Mapping[str, Any]) -> str:
    """Lay out the models of summary.json as plain text, one row a model.

    Scores are in percent with one standard error; recovery has its 95 % interval where there is one.
    """
    head, rows = model_cells(summary["models"])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        aligned = [cells[0].ljust(widths[0])]
        aligned += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "  ".join(aligned).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])


def model_cells(models: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of models.

    Args:
        models: entries of summary.json.
    """
    tasks = list(dict.fromkeys(task for model in models for task in model.get("scores") or {}))
    head = ["model", "parameters", "FLOPs/token", "perplexity", *tasks, "recovery"]
    rows = [
        [
            str(model["name"]),
            scaled(model["parameters"]),
            scaled(model["flops_per_token"]),
            perplexity(model.get("perplexity")),
            *(_score(model, task) for task in tasks),
            percent(model.get("recovery")).replace("\u00a0", " ") + interval_of(model),
        ]
        for model in models
    ]
    if not any("recovery" in model for model in models):
        return head[:-1], [row[:-1] for row in rows]
    return head, rows


def interval_of(model: Mapping[str, Any], name: str = "") -> str:
    """Write a model's interval of recovery in brackets; nothing if it has none."""
    low, high = model.get("recovery_interval") or (None, None)
    if model.get("recovery") is None or low is None or high is None:
        return ""
    return f" ({name}{100 * low:.0f} to {100 * high:.0f})"


def _score(model: Mapping[str, Any], task: str) -> str:
    value, error = score_of(model, task)
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if error is None else f"{100 * value:.1f} ±{100 * error:.1f}"
