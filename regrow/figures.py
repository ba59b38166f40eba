"""The plots of a report, as SVG that stands in a page by itself.

Colours are those of Okabe and Ito, and viridis: colour-blind readers can tell them apart, and so can readers
of a grey print.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from regrow.canvas import INK, canvas

BASE, PRUNED, MERGED = "#6f7782", "#d55e00", "#009e73"
TUNED = ("#0072b2", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442")
# On these, white letters could not be read.
_LIGHT = ("#e69f00", "#56b4e9", "#cc79a7", "#f0e442", "#999999")
# In the order in which decisions are stacked: rewritten first, then the reasons to keep the reference.
_DECISIONS = ("#009e73", "#d55e00", "#e69f00", "#56b4e9", "#cc79a7", "#999999")


def colours(names: Sequence[str]) -> dict[str, str]:
    """Return each model's colour: the same in every plot of a report."""
    tuned = iter(TUNED * (len(names) // len(TUNED) + 1))
    fixed = {"base": BASE, "pruned": PRUNED, "merged": MERGED}
    return {name: fixed.get(name) or next(tuned) for name in names}


def heatmap_svg(
    distance: Sequence[Sequence[float | None]], removed: Sequence[int] = (), title: str = ""
) -> str:
    """Draw angular distance by block size and start.

    Args:
        distance: [size - 1][start]; None where the run would pass the last block.
        removed: the blocks that were cut out; a run of them is outlined in the plot.
        title: replaces the title.
    """
    from matplotlib.patches import Rectangle

    run = bool(removed) and removed[-1] - removed[0] + 1 == len(removed)
    named = f"blocks {removed[0]} to {removed[-1]}" if run else ""
    rows = [[math.nan if value is None else float(value) for value in row] for row in distance]
    width = max(map(len, rows))
    grid = [row + [math.nan] * (width - len(row)) for row in rows]
    with canvas(7.6, 5.2) as (figure, save):
        axes = figure.subplots()
        mesh = axes.pcolormesh(
            [x - 0.5 for x in range(width + 1)],
            [y + 0.5 for y in range(len(grid) + 1)],
            grid,
            cmap="viridis",
            edgecolor="face",
            linewidth=0.3,
            # Thousands of cells would make a page of megabytes.
            rasterized=len(grid) * width > 2500,
        )
        best = [
            (min((value, x) for x, value in enumerate(row) if not math.isnan(value))[1], y + 1)
            for y, row in enumerate(grid)
            if not all(map(math.isnan, row))
        ]
        starts, sizes = [x for x, _ in best], [y for _, y in best]
        axes.scatter(starts, sizes, s=9, color="white", edgecolor=INK, linewidth=0.6, zorder=3)
        if run:
            start, size = removed[0], len(removed)
            box = Rectangle((start - 0.5, size - 0.5), 1, 1, fill=False, edgecolor=PRUNED, linewidth=2.4)
            axes.add_patch(box)
            axes.annotate(
                f"removed: {named}",
                (start + 0.5, size + 0.5),
                xytext=(0.97, 0.64),
                textcoords="axes fraction",
                horizontalalignment="right",
                color=PRUNED,
                weight="bold",
                arrowprops={"arrowstyle": "-", "color": PRUNED, "linewidth": 1.2, "shrinkB": 4},
            )
        axes.set(xlabel="first block of the run", ylabel="number of blocks in the run")
        axes.set_title(title or "Angular distance across a run of blocks (dot: the least of its row)")
        bar = figure.colorbar(mesh, ax=axes, pad=0.02)
        bar.outline.set_visible(False)
        bar.set_label("angular distance (0 same direction, 1 opposite)")
        where = f"; the removed run is {named}" if run else ""
        return save(f"Heatmap of angular distance for {len(rows)} sizes and {width} starts{where}")


def influence_svg(influence: Sequence[float], removed: Sequence[int] = ()) -> str:
    """Draw Block Influence of every block, the removed ones in another colour."""
    from matplotlib.ticker import LogLocator, NullFormatter

    with canvas(7.6, 2.6) as (figure, save):
        axes = figure.subplots()
        colour = [PRUNED if block in removed else BASE for block in range(len(influence))]
        axes.bar(range(len(influence)), influence, color=colour, width=0.8)
        label = "influence"
        if all(value > 0 for value in influence):
            label += ", log scale"
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="y")
        axes.margins(x=0.01)
        axes.set(xlabel="block", ylabel=label)
        axes.set_title("Block Influence (1 - mean cosine of input and output)")
        if removed:
            axes.plot([], [], "s", color=PRUNED, label="removed")
            axes.plot([], [], "s", color=BASE, label="kept")
            axes.legend(
                ncols=2, loc="lower right", bbox_to_anchor=(1.01, 0.99), borderpad=0, handletextpad=0.1
            )
        return save(f"Bars of Block Influence for {len(influence)} blocks")


def sizes_svg(curves: Mapping[str, Sequence[float]], removed: int = 0) -> str:
    """Draw the least angular distance by number of blocks.

    Args:
        curves: by name (last token, all tokens), the least distance over runs of 1, 2, ... blocks.
        removed: the number of blocks that were cut out, marked; none if 0.
    """
    with canvas(7.6, 2.8) as (figure, save):
        axes = figure.subplots()
        for (name, curve), colour in zip(curves.items(), TUNED, strict=False):
            axes.plot(range(1, len(curve) + 1), curve, marker="o", markersize=3, color=colour, label=name)
        if removed:
            axes.axvline(removed, color=PRUNED, linewidth=1.4)
            axes.annotate(
                f"{removed} removed", (removed, axes.get_ylim()[1]), xytext=(4, -10), textcoords="offset points",
                color=PRUNED, weight="bold",
            )  # fmt: skip
        axes.grid(axis="y")
        axes.set(xlabel="number of blocks in the run", ylabel="angular distance", ylim=(0, None))
        axes.set_title("Least angular distance by number of blocks")
        if len(curves) > 1:
            axes.legend(loc="lower right")
        return save(f"Curves of the least angular distance over runs of blocks: {', '.join(curves)}")


def trials_svg(
    rows: Mapping[int, Sequence[float | None]], name: str, *, higher_is_better: bool = False
) -> str:
    """Draw what became of the model without each run of blocks.

    Args:
        rows: by number of blocks, the value without the run that begins at each block.
        name: what the value is.
        higher_is_better: marks the largest of a row instead of the smallest.
    """
    with canvas(7.6, 2.8) as (figure, save):
        axes = figure.subplots()
        best_of = max if higher_is_better else min
        finite = []
        for (size, row), colour in zip(rows.items(), TUNED * len(rows), strict=False):
            values = [_finite(value) for value in row]
            known = [(value, start) for start, value in enumerate(values) if value is not None]
            axes.plot(
                [start for _, start in known],
                [value for value, _ in known],
                color=colour,
                label=f"{size} blocks",
            )
            if known:
                value, start = best_of(known)
                axes.plot(start, value, "o", color=colour, markersize=6)
                finite += [value for value, _ in known]
        if finite and min(finite) > 0 and max(finite) > 20 * min(finite):
            axes.set_yscale("log")
        axes.grid(axis="y")
        axes.set(xlabel="first block of the run that is left out", ylabel=name)
        axes.set_title(f"{name[:1].upper()}{name[1:]} without a run of blocks (dot: best)")
        axes.legend(loc="best")
        return save(f"Curves of {name} without each run of {', '.join(map(str, rows))} blocks")


def models_svg(models: Sequence[Mapping[str, Any]]) -> str:
    """Draw recovery and perplexity of every model, side by side.

    Args:
        models: entries of summary.json; `recovery_interval` [low, high] gives whiskers where there is one.
    """
    names = [str(model["name"]) for model in models]
    colour = colours(names)
    with canvas(7.6, 0.9 + 0.42 * len(names)) as (figure, save):
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
                color=_on(colour[names[place]]),
                weight="bold",
            )
        left.axvline(100, color=INK, linewidth=1, linestyle=(0, (3, 2)))
        left.set(
            xlabel="share of the base model's mean score, %", yticks=range(len(names)), yticklabels=names
        )
        left.set_title("Recovery (line: 95 % interval)")
        left.invert_yaxis()
        values = [_finite(model.get("perplexity")) for model in models]
        top = max((value for value in values if value is not None), default=1.0)
        log_scale = top > 50 * min((value for value in values if value), default=1.0)
        for place, value in enumerate(values):
            if value is not None:
                right.barh(place, value, color=colour[names[place]], height=0.66)
            right.annotate(
                _number(models[place].get("perplexity")),
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
    colour = colours(names)
    tasks = list(dict.fromkeys(task for model in models for task in model.get("scores") or {}))
    with canvas(7.6, 3.4) as (figure, save):
        axes = figure.subplots()
        width = 0.84 / max(1, len(models))
        for place, model in enumerate(models):
            at = [number + (place - (len(models) - 1) / 2) * width for number in range(len(tasks))]
            pairs = [score_of(model, task) for task in tasks]
            axes.bar(
                at,
                [value or 0.0 for value, _ in pairs],
                width * 0.92,
                yerr=[error or 0.0 for _, error in pairs],
                color=colour[names[place]],
                label=names[place],
                error_kw={"ecolor": INK, "elinewidth": 1},
            )
        axes.set(ylabel="score", xticks=range(len(tasks)), xticklabels=tasks)
        axes.grid(axis="y")
        axes.tick_params(axis="x", length=0)
        axes.set_title("Score by task (line: one standard error)")
        figure.legend(ncols=min(5, max(1, len(names))), loc="outside lower center")
        return save(f"Bars of scores of {len(models)} models on {', '.join(tasks)}")


def loss_svg(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Draw training loss by step, one curve a dataset, with a running mean over a tenth of the steps.

    Args:
        logs: for each dataset, entries with `step` and `loss` (nats per response token).
    """
    with canvas(7.6, 3.0) as (figure, save):
        axes = figure.subplots()
        for (name, log), colour in zip(logs.items(), TUNED * len(logs), strict=False):
            entries = [entry for entry in log if _finite(entry.get("loss")) is not None]
            steps, losses = [entry["step"] for entry in entries], [float(entry["loss"]) for entry in entries]
            reach = len(losses) // 20
            around = [losses[max(0, i - reach) : i + reach + 1] for i in range(len(losses))]
            smooth = [sum(part) / len(part) for part in around]
            axes.plot(steps, losses, color=colour, alpha=0.35, linewidth=0.9)
            axes.plot(steps, smooth, color=colour, linewidth=2, label=name)
        axes.set(xlabel="optimizer step", ylabel="loss, nats per response token")
        axes.grid(axis="y")
        axes.set_title("Training loss (bold: running mean)")
        if logs:
            axes.legend(loc="upper right")
        return save(f"Curves of training loss for {', '.join(logs)}")


def decisions_svg(decisions: Mapping[str, Mapping[str, int]]) -> str:
    """Draw what became of every set's answers: rewritten, or kept and why."""
    kinds = list(dict.fromkeys(kind for counts in decisions.values() for kind in counts))
    kinds.sort(key=lambda kind: kind != "rewritten")
    with canvas(7.6, 1.25 + 0.45 * len(decisions)) as (figure, save):
        axes = figure.subplots()
        for row, counts in enumerate(decisions.values()):
            total = max(1, sum(counts.values()))
            left = 0.0
            for kind, colour in zip(kinds, _DECISIONS * len(kinds), strict=False):
                share = 100 * counts.get(kind, 0) / total
                axes.barh(row, share, left=left, color=colour, height=0.62, label=kind if row == 0 else None)
                if share >= 6:
                    axes.text(
                        left + share / 2, row, f"{share:.0f} %", ha="center", va="center", color=_on(colour)
                    )
                left += share
        axes.set(
            yticks=range(len(decisions)),
            yticklabels=list(decisions),
            xlabel="share of answers, %",
            xlim=(0, 100),
        )
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        axes.set_title("What became of the reference answers")
        figure.legend(ncols=3, loc="outside lower center", fontsize=9)
        return save(f"Stacked bars of decisions for {', '.join(decisions)}")


def shift_svg(shifts: Sequence[Mapping[str, Any]]) -> str:
    """Draw how likely rewrites and references are to the unpruned model, and how alike they are.

    Args:
        shifts: as regrow.selfdata.Shift, one row of histograms each; on one scale, so that rows compare.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    def perplexity(one: Mapping[str, Any], kind: str) -> list[float]:
        return [math.exp(min(loss, 20.0)) for loss in one[f"{kind}_loss"]]

    every = [value for one in shifts for kind in ("reference", "rewrite") for value in perplexity(one, kind)]
    low, high = min(every), max(max(every), 1.01 * min(every))
    edges = [low * (high / low) ** (step / 30) for step in range(31)]
    with canvas(7.6, 0.5 + 2.3 * len(shifts)) as (figure, save):
        grid = figure.subplots(len(shifts), 2, squeeze=False, sharex="col", width_ratios=(3, 2))
        for (left, right), one in zip(grid, shifts, strict=True):
            left.hist(perplexity(one, "reference"), edges, color=PRUNED, alpha=0.55, label="reference")
            left.hist(perplexity(one, "rewrite"), edges, color=MERGED, alpha=0.55, label="rewrite")
            left.set_xscale("log")
            left.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            left.xaxis.set_major_formatter("{x:g}")
            left.xaxis.set_minor_formatter(NullFormatter())
            left.set(xlabel="perplexity under the unpruned model", ylabel="records")
            left.set_title(one["dataset"])
            left.legend(ncols=2, loc="lower right", bbox_to_anchor=(1.01, 0.99), borderpad=0)
            if alike := one.get("similarity"):
                right.hist(alike, bins=20, range=(min(0.0, *alike), 1.0), color=TUNED[0])
            right.set(xlabel="cosine of rewrite and reference")
            for axes in (left, right):
                axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
                axes.tick_params(labelbottom=True)
        names = ", ".join(str(one["dataset"]) for one in shifts)
        return save(f"Histograms of perplexity and similarity of rewrites and references for {names}")


def score_of(model: Mapping[str, Any], task: str) -> tuple[float | None, float | None]:
    """Return a task's value and standard error from an entry of summary.json, which may hold either form."""
    score = (model.get("scores") or {}).get(task)
    if isinstance(score, Mapping):
        return _finite(score.get("value")), _finite(score.get("stderr"))
    return _finite(score), None


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _on(colour: str) -> str:
    return INK if colour in _LIGHT else "white"


def _number(value: Any) -> str:
    if value is None:
        return "not measured"
    if not math.isfinite(value):
        return "infinite"
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"
