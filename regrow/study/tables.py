"""A study as Markdown tables."""

from collections.abc import Sequence

from regrow.evaluate.markdown import markdown
from regrow.prune.size import human
from regrow.study.result import Pair, Row, Spread, StudyResult

_DRIFT = {
    "similarity": "similarity of answers",
    "agreement": "next-token agreement",
    "kl": "KL, nats",
    "repetition": "repeated 4-grams",
    "unfinished": "unfinished",
    "empty": "empty",
}


def tables(result: StudyResult) -> str:
    """Lay out scores, comparisons, drift and cost."""
    parts = [("Quality", scores_table(result)), ("Differences", pairs_table(result))]
    if any(row.drift for row in result.rows):
        parts.append(("Drift from the unpruned model", drift_table(result.rows)))
    parts.append(("Cost", cost_table(result)))
    return "\n\n".join(f"## {title}\n\n{table}" for title, table in parts) + "\n"


def scores_table(result: StudyResult) -> str:
    """Perplexity, tasks and recovery of every arm: mean ± standard deviation over seeds."""
    base, tasks = result.base, list(result.base.scores)
    sized = _sized(result.rows)
    head = [
        "blocks out", "arm", *(["records"] if sized else []), "seeds", "perplexity", *tasks, "mean", "recovery, %",
        "95 % over items",
    ]  # fmt: skip
    first = [
        "0", "unpruned", *([""] if sized else []), "", "" if base.perplexity is None else f"{base.perplexity:,.1f}",
        *(f"{100 * base.scores[task].value:.1f}" for task in tasks), f"{100 * base.mean:.1f}", "100", "",
    ]  # fmt: skip
    rows = [
        [
            str(row.blocks), row.arm, *([_count(row)] if sized else []), str(len(row.seeds) or ""),
            _plus_minus(row.perplexity, 1, 1), *(_plus_minus(row.tasks[task]) for task in tasks),
            _plus_minus(row.mean), _plus_minus(row.recovery), _interval(row.interval.low, row.interval.high),
        ]
        for row in result.rows
    ]  # fmt: skip
    samples = ", ".join(f"{task} {score.samples}" for task, score in base.scores.items())
    note = f"Items: {samples}" + (
        f"; perplexity over {base.perplexity_tokens:,} tokens." if base.perplexity else "."
    )
    return f"{markdown([head, first, *rows], left=2)}\n\n{note}"


def pairs_table(result: StudyResult) -> str:
    """Every tuned arm against the reference, on the same seeds and items."""
    if not result.pairs:
        return "There is nothing to compare: fewer than two tuned arms."
    sized = _sized(result.rows)
    head = [
        "blocks out", *(["records"] if sized else []), f"against {result.reference}", "mean score, points",
        "95 % over items", "seed by seed", "p, Holm", "perplexity, %", "verdict",
    ]  # fmt: skip
    return markdown([head, *(_pair(pair, sized) for pair in result.pairs)], left=1)


def _pair(pair: Pair, sized: bool) -> list[str]:
    found = pair.comparison
    return [
        str(pair.blocks),
        *(["all" if pair.records is None else str(pair.records)] if sized else []),
        pair.ours,
        f"{100 * found.difference:+.2f}",
        _interval(found.low, found.high, sign="+"),
        ", ".join(f"{100 * one:+.1f}" for one in pair.by_seed),
        "" if pair.p is None else f"{pair.p:.3f}",
        "" if pair.perplexity is None else f"{100 * pair.perplexity:+.1f}",
        pair.verdict,
    ]


def drift_table(rows: Sequence[Row]) -> str:
    """How far every arm's answers lie from the unpruned model's."""
    rows = [row for row in rows if row.drift]
    names = [name for name in _DRIFT if any(name in row.drift for row in rows)]
    sized = _sized(rows)
    head = ["blocks out", "arm", *(["records"] if sized else []), *(_DRIFT[name] for name in names)]
    lines = [
        [
            str(row.blocks),
            row.arm,
            *([_count(row)] if sized else []),
            *(_plus_minus(row.drift.get(name), 3, 1) for name in names),
        ]
        for row in rows
    ]
    return markdown([head, *lines], left=2)


def cost_table(result: StudyResult) -> str:
    """Size, and what training took."""
    base = result.base
    head = ["blocks out", "arm", "parameters", "FLOPs per token, %", "tokens trained on", "training, s"]
    rows = [["0", "unpruned", human(base.parameters), "100", "", ""]]
    rows += [
        [
            str(row.blocks),
            row.arm + ("" if row.records is None else f", {row.records} records"),
            human(row.parameters),
            f"{100 * row.flops_per_token / base.flops_per_token:.1f}",
            f"{row.tokens.mean:,.0f}",
            _plus_minus(row.seconds, 0, 1),
        ]
        for row in result.rows
    ]
    return markdown([head, *rows], left=2)


def _sized(rows: Sequence[Row]) -> bool:
    """Whether sizes of the training set differ."""
    return len({row.records for row in rows if row.seeds}) > 1


def _count(row: Row) -> str:
    if not row.seeds:
        return ""
    return "all" if row.records is None else str(row.records)


def _plus_minus(value: Spread | None, digits: int = 1, scale: float = 100) -> str:
    if value is None:
        return ""
    middle = f"{scale * value.mean:,.{digits}f}"
    return middle if value.sd is None else f"{middle} ± {scale * value.sd:.{digits}f}"


def _interval(low: float | None, high: float | None, sign: str = "") -> str:
    return "" if low is None or high is None else f"{100 * low:{sign}.1f} to {100 * high:{sign}.1f}"
