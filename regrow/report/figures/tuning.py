"""The course of training."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from regrow.report.canvas import canvas, legend_columns, legend_height
from regrow.report.numbers import finite
from regrow.report.palette import Style, models


def loss_svg(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Draw training loss by step, one curve a dataset, with a running mean over a tenth of the steps.

    Args:
        logs: for each dataset, entries with `step` and `loss` (nats per response token).
    """
    with canvas(3.0) as (figure, save):
        axes = figure.subplots()
        styles = models(list(logs))
        for name, log in logs.items():
            colour, _, dashes = styles[name]
            entries = [entry for entry in log if finite(entry.get("loss")) is not None]
            steps, losses = [entry["step"] for entry in entries], [float(entry["loss"]) for entry in entries]
            axes.plot(steps, losses, color=colour, alpha=0.35, linewidth=0.9)
            axes.plot(steps, _smooth(losses), color=colour, linestyle=dashes, linewidth=2, label=name)
        axes.set(xlabel="optimizer step", ylabel="loss, nats per response token")
        axes.grid(axis="y")
        axes.set_title("Training loss (bold: running mean)")
        if logs:
            axes.legend(loc="upper right")
        return save(f"Curves of training loss for {', '.join(logs)}")


def losses_svg(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]], styles: Mapping[str, Style]
) -> str:
    """Draw training loss by step, one plot a block size, one line an arm: the mean over its runs.

    Args:
        panels: [title][arm]: the log of each run, entries with `step` and `loss`.
        styles: by arm.
    """
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with canvas(2.7 * rows + 0.6 + legend_height(names)) as (figure, save):
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("loss, nats per response token" if rows == 1 else "loss, nats per token")
        for axes, (title, panel) in zip(grid.flat, panels.items(), strict=False):
            for name, logs in panel.items():
                style = styles[name]
                steps, losses = _mean_course(logs)
                axes.plot(steps, losses, color=style.colour, alpha=0.22, linewidth=0.8)
                smooth = _smooth(losses)
                axes.plot(
                    steps, smooth, color=style.colour, linestyle=style.dashes, linewidth=1.7, label=name,
                    marker=style.marker, markersize=5, markevery=max(1, len(steps) // 5),
                )  # fmt: skip
            axes.set(xlabel="optimizer step")
            axes.grid(axis="y")
            axes.set_title(title)
        handles = {
            label: handle
            for axes in grid.flat
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            [handles[name] for name in names], names, ncols=legend_columns(names), loc="outside lower center"
        )
        return save(f"Curves of training loss of {', '.join(names)} for {', '.join(panels)}")


def _mean_course(logs: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[list[float], list[float]]:
    """Return steps and the mean loss over runs at each, at most 240 of them."""
    by_step: dict[float, list[float]] = {}
    for log in logs:
        for entry in log:
            if (loss := finite(entry.get("loss"))) is not None:
                by_step.setdefault(float(entry["step"]), []).append(loss)
    steps = sorted(by_step)
    width = max(1, math.ceil(len(steps) / 240))
    parts = [steps[i : i + width] for i in range(0, len(steps), width)]
    return (
        [sum(part) / len(part) for part in parts],
        [fmean(value for step in part for value in by_step[step]) for part in parts],
    )


def _smooth(losses: Sequence[float]) -> list[float]:
    """Return the running mean over a tenth of the values."""
    reach = len(losses) // 20
    around = [losses[max(0, i - reach) : i + reach + 1] for i in range(len(losses))]
    return [sum(part) / len(part) for part in around]
