"""The models of a run: recovery, perplexity, scores."""

from collections.abc import Mapping, Sequence
from typing import Any

from regrow.report import palette
from regrow.report.canvas import INK, canvas
from regrow.report.figures.arms import Panel, Point, points_svg
from regrow.report.numbers import finite, plain, score_of
from regrow.report.palette import colours, on


def models_svg(models: Sequence[Mapping[str, Any]]) -> str:
    """Draw recovery and perplexity of every model, side by side.

    Args:
        models: entries of summary.json; `recovery_interval` [low, high] gives whiskers where there is one.
    """
    names = [str(model["name"]) for model in models]
    colour = colours(names)
    with canvas(0.9 + 0.42 * len(names)) as (figure, save):
        left, right = figure.subplots(1, 2, sharey=True)
        recovered = [model.get("recovery") for model in models]
        for place, (model, value) in enumerate(zip(models, recovered, strict=True)):
            if value is None:
                continue
            left.barh(place, 100 * value, color=colour[names[place]], height=0.66)
            low, high = model.get("recovery_interval") or (None, None)
            if low is not None and high is not None:
                left.plot([100 * low, 100 * high], [place, place], color=INK, linewidth=1.3)
            left.text(
                1.5,
                place,
                f"{100 * value:.1f} %",
                va="center",
                color=on(colour[names[place]]),
                weight="bold",
            )
        left.axvline(100, color=INK, linewidth=1, linestyle=(0, (3, 2)))
        left.set(
            xlabel="share of the base model's mean score, %", yticks=range(len(names)), yticklabels=names
        )
        left.set_title("Recovery (line: 95 % interval)")
        left.invert_yaxis()
        values = [finite(model.get("perplexity")) for model in models]
        top = max((value for value in values if value is not None), default=1.0)
        log_scale = top > 50 * min((value for value in values if value), default=1.0)
        for place, value in enumerate(values):
            if value is not None:
                right.barh(place, value, color=colour[names[place]], height=0.66)
            right.annotate(
                plain(models[place].get("perplexity")),
                (value or 0, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
            )
        if log_scale:
            right.set_xscale("log")
        right.set(xlabel="perplexity (lower is better)")
        right.set_xlim(right=top * (4 if log_scale else 1.2))
        right.set_title("Perplexity")
        for axes in (left, right):
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
        said = ", ".join(
            f"{name} {100 * value:.1f} %"
            for name, value in zip(names, recovered, strict=True)
            if value is not None
        )
        return save(f"Bars of recovery ({said}) and of perplexity")


def scores_svg(models: Sequence[Mapping[str, Any]]) -> str:
    """Draw every model's score on every task, with one standard error."""
    names = [str(model["name"]) for model in models]
    tasks = list(dict.fromkeys(task for model in models for task in model.get("scores") or {}))
    points = []
    for name, model in zip(names, models, strict=True):
        for task in tasks:
            value, error = score_of(model, task)
            if value is not None:
                reach = [None, None] if error is None else [100 * (value - error), 100 * (value + error)]
                points.append(Point(name, task, 100 * value, *reach))
    panel = Panel("Score by task (bar: one standard error)", points, "score, %")
    return points_svg([panel], palette.models(names), joined=False)
