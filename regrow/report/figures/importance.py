"""Which blocks matter: distances, influences and trials."""

import math
from collections.abc import Mapping, Sequence

from regrow.report.canvas import INK, canvas
from regrow.report.numbers import finite
from regrow.report.palette import BASE, PRUNED, TUNED


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
    with canvas(5.2) as (figure, save):
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

    with canvas(2.6) as (figure, save):
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
    with canvas(2.8) as (figure, save):
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
    with canvas(2.8) as (figure, save):
        axes = figure.subplots()
        best_of = max if higher_is_better else min
        every: list[float] = []
        for (size, row), colour in zip(rows.items(), TUNED * len(rows), strict=False):
            values = [finite(value) for value in row]
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
                every += [value for value, _ in known]
        if every and min(every) > 0 and max(every) > 20 * min(every):
            axes.set_yscale("log")
        axes.grid(axis="y")
        axes.set(xlabel="first block of the run that is left out", ylabel=name)
        axes.set_title(f"{name[:1].upper()}{name[1:]} without a run of blocks (dot: best)")
        axes.legend(loc="best")
        return save(f"Curves of {name} without each run of {', '.join(map(str, rows))} blocks")
