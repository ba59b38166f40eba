"""Scores and comparisons as tables that people read, in Markdown."""

import math
from collections.abc import Sequence

from regrow.evaluate.markdown import markdown
from regrow.evaluate.paired import Comparison
from regrow.evaluate.scores import Scores, TaskScore


def table(
    scores: Sequence[Scores], comparisons: Sequence[Comparison] = (), adjusted: Sequence[float | None] = ()
) -> str:
    """Draw the scores of all models, and how each differs from the first.

    Args:
        scores: the models; the first is the reference.
        comparisons: each of the others against it, in the same order.
        adjusted: p-values of these, adjusted for their number (Holm).
    """
    parts = [_scores(scores, comparisons)]
    if comparisons:
        parts += [_differences(comparisons, adjusted), *(f"{one.name}: {one.verdict}" for one in comparisons)]
    return "\n\n".join(parts)


def _scores(scores: Sequence[Scores], comparisons: Sequence[Comparison]) -> str:
    rows = [["task", "metric", "shots", "items", *(one.name for one in scores)]]
    for task, first in scores[0].scores.items():
        own = [one.scores[task] for one in scores]
        rows.append([task, first.metric, str(first.num_fewshot), str(first.samples), *map(_score, own)])
        for metric in first.others:
            values = [_points(one.others.get(metric)) for one in own]
            rows.append(["", f"({metric})", "", "", *values])
    if scores[0].scores:
        rows.append(["mean", "", "", "", *(_points(one.mean) for one in scores)])
    if any(one.perplexity is not None for one in scores):
        rows.append(["perplexity", "", "", "", *(_perplexity(one.perplexity) for one in scores)])
    rows += [
        ["", name, "", "", *(_perplexity(one.more_perplexities[name]) for one in scores)]
        for name in scores[0].more_perplexities
    ]
    rows.append(["parameters", "", "", "", *(f"{one.parameters / 1e6:.1f} M" for one in scores)])
    if comparisons:
        rows += [
            ["recovery", "ratio of means", "", "", "", *(_recovery(one, "value") for one in comparisons)],
            ["", "mean of ratios", "", "", "", *(_recovery(one, "mean_of_ratios") for one in comparisons)],
        ]
    return markdown(rows, left=2)


def _differences(comparisons: Sequence[Comparison], adjusted: Sequence[float | None]) -> str:
    several = len(comparisons) > 1
    rows = [
        [
            "model",
            "task",
            f"difference to {comparisons[0].base}",
            "p",
            "McNemar p",
            "only it",
            "only the other",
            "sees",
        ]
    ]
    for place, one in enumerate(comparisons):
        rows += [
            [
                one.name,
                task.task,
                _difference(task.difference, task.low, task.high),
                _p(task.p_bootstrap),
                _p(task.p_mcnemar),
                str(task.ours_only),
                str(task.theirs_only),
                _points(task.detectable),
            ]
            for task in one.tasks
        ]
        holm = adjusted[place] if several and place < len(adjusted) else None
        rows.append(
            [
                one.name,
                "mean",
                _difference(one.difference, one.low, one.high),
                _p(one.p) + (f" (Holm {_p(holm)})" if holm is not None else ""),
                "",
                "",
                "",
                _points(one.detectable),
            ]
        )
    return markdown(rows, left=2)


def _score(score: TaskScore) -> str:
    error = f" ± {_points(score.stderr)}" if score.stderr is not None else ""
    return _points(score.value) + error


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _perplexity(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if math.isfinite(value) else "infinite"


def _difference(value: float, low: float | None, high: float | None) -> str:
    span = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * value:+.1f}{span}"


def _recovery(comparison: Comparison, field: str) -> str:
    found = comparison.recovery
    if found is None:
        return ""
    ends = (
        (found.low, found.high) if field == "value" else (found.mean_of_ratios_low, found.mean_of_ratios_high)
    )
    span = "" if None in ends else f" [{100 * (ends[0] or 0):.1f}, {100 * (ends[1] or 0):.1f}]"
    return f"{100 * getattr(found, field):.1f} %{span}"


def _p(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
