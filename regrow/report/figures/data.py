"""What became of the training data."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from regrow.report.canvas import canvas
from regrow.report.palette import DECISIONS, MERGED, PRUNED, TUNED, on

_HATCHES = ("", "//", "..", "\\\\", "xx", "")


def decisions_svg(decisions: Mapping[str, Mapping[str, int]]) -> str:
    """Draw what became of every set's answers: rewritten, or kept and why."""
    kinds = list(dict.fromkeys(kind for counts in decisions.values() for kind in counts))
    kinds.sort(key=lambda kind: kind != "rewritten")
    # Hatches tell neighbours apart in a grey print.
    looks = [(DECISIONS[i % len(DECISIONS)], _HATCHES[i % len(_HATCHES)]) for i in range(len(kinds))]
    with canvas(1.25 + 0.45 * len(decisions)) as (figure, save):
        axes = figure.subplots()
        for row, counts in enumerate(decisions.values()):
            total = max(1, sum(counts.values()))
            left = 0.0
            for kind, (colour, hatch) in zip(kinds, looks, strict=True):
                share = 100 * counts.get(kind, 0) / total
                axes.barh(
                    row, share, left=left, color=colour, height=0.62, label=kind if row == 0 else None,
                    hatch=hatch, edgecolor="white", linewidth=0.6,
                )  # fmt: skip
                if share >= 6:
                    axes.text(
                        left + share / 2,
                        row,
                        f"{share:.0f} %",
                        ha="center",
                        va="center",
                        color=on(colour),
                        bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5},
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
    with canvas(0.5 + 2.3 * len(shifts)) as (figure, save):
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
