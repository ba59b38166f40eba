"""Cost against quality."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from regrow.report.canvas import INK, MUTED, canvas, legend_columns, legend_height
from regrow.report.palette import Style


@dataclass(frozen=True)
class Model:
    """A model's price and worth."""

    name: str
    cost: float  # FLOPs per token over the unpruned model's
    quality: float  # mean score
    low: float | None
    high: float | None
    place: str = ""  # label of its cost on the axis


def front(models: Sequence[Model]) -> list[Model]:
    """Return the models that no other beats: none is cheaper and as good, or as cheap and better; cheapest first."""
    ordered = sorted(models, key=lambda one: (one.cost, -one.quality))
    found: list[Model] = []
    for one in ordered:
        if not found or one.quality > found[-1].quality:
            found.append(one)
    return found


def pareto_svg(models: Sequence[Model], styles: Mapping[str, Style]) -> str:
    """Draw mean score by FLOPs per token; the models that no other beats are ringed and joined.

    Models of equal cost stand a little apart.
    """
    best = front(models)
    names = list(dict.fromkeys(one.name for one in models))
    costs = sorted({one.cost for one in models})
    gap = min((b - a for a, b in pairwise(costs)), default=0.1)
    widest = max(sum(one.cost == cost for one in models) for cost in costs)
    step = min(0.012 * max(costs[-1] - costs[0], 0.1), 0.7 * gap / widest)
    at: dict[int, float] = {}
    for cost in costs:
        same = [one for one in models if one.cost == cost]
        at |= {id(one): 100 * (cost + (rank - (len(same) - 1) / 2) * step) for rank, one in enumerate(same)}
    with canvas(4.0 + legend_height([*names, "front"], 1.6)) as (figure, save):
        axes = figure.subplots()
        for name in names:
            style = styles[name]
            for one in (one for one in models if one.name == name):
                x = at[id(one)]
                if one.low is not None and one.high is not None:
                    axes.plot(
                        [x, x], [100 * one.low, 100 * one.high], color=style.colour, linewidth=1.3, alpha=0.7
                    )
                axes.plot(
                    x, 100 * one.quality, marker=style.marker, color=style.colour, markersize=7, zorder=3
                )
            axes.plot([], [], style.marker, color=style.colour, markersize=7, label=name)
        axes.plot(
            [at[id(one)] for one in best], [100 * one.quality for one in best], color=INK, linewidth=1.1,
            linestyle=(0, (3, 2)), marker="o", markersize=13, markerfacecolor="none", markeredgewidth=1.1, zorder=2,
            label="front",
        )  # fmt: skip
        labels = {one.cost: one.place for one in models}
        axes.set(
            xticks=[100 * cost for cost in costs],
            xticklabels=[
                f"{100 * cost:.0f} %" + (f"\n{labels[cost]}" if labels[cost] else "") for cost in costs
            ],
            xlabel="FLOPs per token, share of the unpruned model's",
            ylabel="mean score, %",
        )
        axes.margins(x=0.07)
        axes.grid()
        axes.tick_params(axis="x", labelcolor=MUTED)
        axes.set_title("Cost and quality (ringed: nothing is both cheaper and better)")
        figure.legend(
            ncols=legend_columns([*names, "front"], 1.6), handlelength=1.6, loc="outside lower center"
        )
        said = ", ".join(f"{one.name} {one.place}" for one in best)
        return save(f"Mean score by FLOPs per token of {len(models)} models; the front is {said}")
