"""Arms or models side by side: values with intervals, differences, distributions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regrow.report.canvas import INK, MUTED, RULE, canvas, legend_columns, legend_height
from regrow.report.numbers import points as signed
from regrow.report.palette import Style


@dataclass(frozen=True)
class Point:
    """A value at one place of the x axis."""

    name: str  # arm or model
    place: str  # label on the x axis
    value: float
    low: float | None = None
    high: float | None = None
    each: tuple[float, ...] = ()  # the values that `value` is a mean of


@dataclass(frozen=True)
class Panel:
    """A plot beside others."""

    title: str
    points: Sequence[Point]
    y_label: str
    x_label: str = ""
    level: float | None = None  # a line across
    level_name: str = ""


@dataclass(frozen=True)
class Difference:
    """A difference with its interval, in shares."""

    group: str
    name: str
    value: float
    low: float | None
    high: float | None
    significant: bool
    note: str = ""


def points_svg(
    panels: Sequence[Panel], styles: Mapping[str, Style], *, height: float = 3.6, joined: bool = True
) -> str:
    """Draw values by place, one line an arm, side by side at each place so that no interval hides another.

    Args:
        panels: plots in a row; every point has its interval as a bar, and small dots for what it is a mean of.
        styles: by name.
        height: in inches.
        joined: whether the places are in an order, so that a line from one to the next tells something.
    """
    names = list(dict.fromkeys(point.name for panel in panels for point in panel.points))
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    # Panels of one measure share their axis, so that they compare.
    share = len({panel.y_label for panel in panels}) == 1 and bool(panels[0].y_label)
    with canvas(rows * height + legend_height(names)) as (figure, save):
        grid = figure.subplots(rows, columns, squeeze=False, sharey=share)
        row = list(grid.flat)
        for axes in row[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(row, panels, strict=False):
            places = list(dict.fromkeys(point.place for point in panel.points))
            step = 0.72 / max(1, len(names))
            for rank, name in enumerate(names):
                own = [point for point in panel.points if point.name == name]
                at = [places.index(point.place) + (rank - (len(names) - 1) / 2) * step for point in own]
                _line(axes, at, own, styles[name], name)
            for place in range(len(places) - 1):
                axes.axvline(place + 0.5, color=RULE, linewidth=0.8)
            if not joined:
                for line in axes.get_lines():
                    if line.get_label() in names:
                        line.set_linestyle("")
            if panel.level is not None:
                axes.axhline(panel.level, color=INK, linewidth=1, linestyle=(0, (3, 2)))
                axes.annotate(
                    panel.level_name, (0.99, panel.level), xycoords=("axes fraction", "data"), xytext=(0, 3),
                    textcoords="offset points", ha="right", color=MUTED,
                )  # fmt: skip
            axes.set(
                xticks=range(len(places)), xticklabels=places, xlim=(-0.5, len(places) - 0.5),
                xlabel=panel.x_label, ylabel=panel.y_label,
            )  # fmt: skip
            axes.grid(axis="y")
            axes.tick_params(axis="x", length=0)
            axes.tick_params(labelleft=True)
            axes.set_title(panel.title)
        _legend(figure, grid[0, 0], names)
        said = "; ".join(
            f"{panel.title}: "
            + ", ".join(f"{point.name} {point.place} {point.value:.3g}" for point in panel.points)
            for panel in panels
        )
        return save(said)


def _line(axes: Any, at: Sequence[float], own: Sequence[Point], style: Style, name: str) -> None:
    axes.plot(
        at, [point.value for point in own], color=style.colour, linestyle=style.dashes, linewidth=1.3,
        marker=style.marker, markersize=6.5, markeredgecolor="white", markeredgewidth=0.7, label=name, zorder=3,
    )  # fmt: skip
    for x, point in zip(at, own, strict=True):
        if point.low is not None and point.high is not None:
            axes.plot([x, x], [point.low, point.high], color=style.colour, linewidth=1.6, zorder=2)
        if len(point.each) > 1:
            axes.plot([x] * len(point.each), point.each, "_", color=style.colour, markersize=6, alpha=0.8)


def _legend(figure: Any, axes: Any, names: Sequence[str]) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, ncols=legend_columns(names), loc="outside lower center")


def _mark(axes: Any, place: float, one: Difference, style: Style, size: float, edge: float) -> None:
    """Draw a difference and its interval at a height; full where it is significant."""
    if one.low is not None and one.high is not None:
        axes.plot([100 * one.low, 100 * one.high], [place, place], color=style.colour, linewidth=2)
    axes.plot(
        100 * one.value, place, marker=style.marker, markersize=size, color=style.colour,
        markerfacecolor=style.colour if one.significant else "white", markeredgewidth=edge,
    )  # fmt: skip


def differences_svg(rows: Sequence[Difference], styles: Mapping[str, Style], against: str) -> str:
    """Draw differences with their intervals, one row each; full markers where one is significant, hollow elsewhere."""
    groups = list(dict.fromkeys(row.group for row in rows))
    with canvas(1.25 + 0.3 * len(rows) + 0.32 * len(groups)) as (figure, save):
        axes = figure.subplots()
        place, ticks = 0.0, []
        for group in groups:
            if group:
                ticks.append((place, group))
                place += 1
            for row in (one for one in rows if one.group == group):
                _mark(axes, place, row, styles[row.name], 7.5, 1.5)
                axes.annotate(
                    row.note, (1, place), xycoords=("axes fraction", "data"), xytext=(8, 0),
                    textcoords="offset points", va="center", weight="bold" if row.significant else "normal",
                    fontsize=9, annotation_clip=False,
                )  # fmt: skip
                ticks.append((place, row.name))
                place += 1
            place += 0.25
        axes.axvline(0, color=INK, linewidth=1)
        axes.set(yticks=[at for at, _ in ticks], yticklabels=[name for _, name in ticks])
        for label in axes.get_yticklabels():
            if label.get_text() in groups:
                label.set(color=MUTED, weight="bold")
        axes.set(xlabel=f"points above {against}", ylim=(place - 0.5, -0.75))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.set_title("Difference of mean scores (line: 95 % interval; filled: significant)")
        said = "; ".join(
            f"{row.group} {row.name} {signed(row.value)} points, {'' if row.significant else 'not '}significant"
            for row in rows
        )
        return save(f"Differences from {against}: {said}")


def task_differences_svg(panels: Mapping[str, Sequence[Difference]], styles: Mapping[str, Style]) -> str:
    """Draw differences to the unpruned model, a panel a task; full markers where the interval leaves out zero."""
    columns = min(5, len(panels))
    rows = math.ceil(len(panels) / columns)
    names = [one.name for one in next(iter(panels.values()))]
    with canvas(0.75 + rows * (0.62 + 0.27 * len(names))) as (figure, save):
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=True)
        for axes, (task, differences) in zip(grid.flat, panels.items(), strict=False):
            for place, one in enumerate(differences):
                _mark(axes, place, one, styles[one.name], 6.5, 1.4)
            axes.axvline(0, color=INK, linewidth=1)
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
            axes.tick_params(labelbottom=True)
            axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
            axes.set_title(task, fontsize=9.5)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        figure.supxlabel(
            "score less the unpruned model's, percentage points (line: 95 % interval)", fontsize=9.5
        )
        said = "; ".join(
            f"{task}: " + ", ".join(f"{one.name} {signed(one.value)}" for one in differences)
            for task, differences in panels.items()
        )
        return save(f"Differences to the unpruned model by task, percentage points: {said}")


def similarity_svg(values: Mapping[str, Mapping[str, Sequence[float]]], styles: Mapping[str, Style]) -> str:
    """Draw how alike answers are to the unpruned model's: a histogram for every arm (row) and place (column).

    Args:
        values: [arm][place]: cosine of each answer.
        styles: by arm.
    """
    from matplotlib.ticker import MaxNLocator

    names = list(values)
    places = list(dict.fromkeys(place for one in values.values() for place in one))
    every = sorted(value for one in values.values() for part in one.values() for value in part)
    # A few far-off answers must not press all others into the last bins.
    low = min(0.9, math.floor(10 * every[len(every) // 200]) / 10)
    edges = [low + (1 - low) * step / 30 for step in range(31)]
    with canvas(0.75 + 0.66 * len(names)) as (figure, save):
        grid = figure.subplots(len(names), len(places), squeeze=False, sharex=True, sharey="col")
        for row, name in zip(grid, names, strict=True):
            for axes, place in zip(row, places, strict=True):
                part = values[name].get(place, ())
                axes.set_yticks([])
                axes.spines["left"].set_visible(False)
                if not part:
                    axes.set_axis_off()
                    continue
                shown = [min(max(value, low), 1.0) for value in part]
                axes.hist(shown, edges, weights=[1 / len(part)] * len(part), color=styles[name].colour)
                mean = sum(part) / len(part)
                axes.axvline(mean, color=INK, linewidth=1.2)
                axes.set_xlim(low - 0.01, 1.01)
                axes.xaxis.set_major_locator(MaxNLocator(4 if len(places) < 4 else 2, prune="lower"))
                axes.annotate(
                    f"mean {mean:.2f}",
                    (0.015, 0.9),
                    xycoords="axes fraction",
                    va="top",
                    fontsize=9,
                    color=INK,
                )
            row[0].set_axis_on()
            row[0].set_ylabel(name, rotation=0, ha="right", va="center", labelpad=8)
        for axes, place in zip(grid[0], places, strict=True):
            axes.set_title(place if len(places) < 5 else place.removesuffix(" removed"))
        clipped = "; what is lower stands in the first bin" if every[0] < low else ""
        figure.supxlabel(f"cosine of an answer and the unpruned model's (line: mean{clipped})", fontsize=9.5)
        said = "; ".join(
            f"{name} {place}: mean {sum(part) / len(part):.2f}"
            for name, one in values.items()
            for place, part in one.items()
            if part
        )
        return save(f"Histograms of similarity to the unpruned model's answers. {said}")
