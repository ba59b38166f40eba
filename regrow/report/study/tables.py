"""The tables of a study."""

from collections.abc import Mapping, Sequence
from math import isfinite
from statistics import fmean
from typing import TYPE_CHECKING, Any

from regrow.report import figures
from regrow.report.numbers import between, duration, p_value, percent, plain, points, scaled, spread
from regrow.report.palette import Style
from regrow.report.study.cells import drifts_of, records_of
from regrow.report.study.findings import at_largest, by_blocks, is_sized, removed, size_of
from regrow.report.table import Cell, Line, Table

if TYPE_CHECKING:
    from regrow.study import Pair, StudyResult

_HEALTH = ("empty", "unfinished", "looping", "repetition", "length")


def scores_table(result: "StudyResult", styles: Mapping[str, Style]) -> Table:
    """Perplexity, tasks and recovery of every arm: mean ± standard deviation over seeds."""
    base, tasks = result.base, list(result.base.scores)
    sized = is_sized(result.rows)
    empty = [""] if sized else []
    head = ["arm", *(["records"] if sized else []), "seeds", "recovery, %", "95 % interval", "mean", *tasks]
    first = ["unpruned", *empty, "", "100.0", "", f"{100 * base.mean:.1f}"]
    first += [f"{100 * base.scores[task].value:.1f}" for task in tasks]
    if base.perplexity is not None:
        head.append("perplexity")
        first.append(plain(base.perplexity))
    groups: list[tuple[str, list[Line]]] = [("No block removed", [Line(first)])]
    for group in by_blocks(result.rows):
        best = max(row.recovery.mean for row in group)
        lines = []
        for row in group:
            cells: list[Cell | str] = [Cell(row.arm, styles[row.arm]), *([records_of(row)] if sized else [])]
            cells += [str(len(row.seeds) or ""), spread(row.recovery.mean, row.recovery.sd)]
            cells += [between(row.interval.low, row.interval.high), spread(row.mean.mean, row.mean.sd)]
            cells += [spread(row.tasks[task].mean, row.tasks[task].sd) for task in tasks]
            if base.perplexity is not None:
                value = row.perplexity
                cells.append(plain(None if value is None else value.mean))
                if value is not None and isfinite(value.mean):
                    cells[-1] = spread(value.mean, value.sd, 1, 1.0)
            lines.append(Line(cells, chosen=row.recovery.mean == best))
        share = group[0].parameters / base.parameters
        groups.append(
            (f"{removed(group[0].blocks).capitalize()}, {percent(share, 0)} of the parameters", lines)
        )
    return Table(
        head,
        groups,
        "Scores in percent: mean ± standard deviation over seeds of training. Recovery is the mean score over the "
        "unpruned model's; its 95 % interval is a paired bootstrap over items, each with its mean over seeds. The "
        "shaded row recovers most of its group; of many arms that one is flattered a little by chance.",
    )


def pairs_table(pairs: Sequence["Pair"], styles: Mapping[str, Style]) -> Table:
    """Every tuned arm against the reference, on the same seeds and items."""
    sized = len({pair.records for pair in pairs}) > 1
    groups: dict[str, list[Line]] = {}
    for pair in pairs:
        found = pair.comparison
        label = removed(pair.blocks).capitalize() + (f", {size_of(pair.records)}" if sized else "")
        kind = {"better": "passed", "worse": "failed"}.get(pair.verdict, "")
        groups.setdefault(label, []).append(
            Line([
                Cell(pair.ours, styles[pair.ours]), points(found.difference, 2),
                between(found.low, found.high, signed=True), ", ".join(points(one) for one in pair.by_seed),
                p_value(pair.p), "-" if pair.perplexity is None else points(pair.perplexity),
                Cell(pair.verdict, kind=kind),
            ])
        )  # fmt: skip
    head = [
        "arm",
        "mean score, points",
        "95 % interval",
        "seed by seed",
        "p, Holm",
        "perplexity, %",
        "verdict",
    ]
    count = len(pairs)
    return Table(
        head,
        list(groups.items()),
        f"Paired bootstrap over items; p values are adjusted by Holm's method for {count} "
        f"comparison{'s' if count != 1 else ''}. Better or worse: p below 0.05, and every seed on the same side.",
    )


def cost_table(result: "StudyResult", styles: Mapping[str, Style]) -> Table:
    """Size, and what training took."""
    base = result.base
    head = ["arm", "parameters", "FLOPs per token", "tokens trained on", "time of training"]
    groups = [("No block removed", [Line(["unpruned", scaled(base.parameters), percent(1.0), "", ""])])]
    for group in by_blocks(result.rows):
        lines = [
            Line([
                Cell(row.arm + (f", {size_of(row.records)}" if row.records is not None else ""), styles[row.arm]),
                scaled(row.parameters), percent(row.flops_per_token / base.flops_per_token),
                f"{row.tokens.mean:,.0f}" if row.seeds else "", duration(row.seconds.mean) if row.seeds else "",
            ])
            for row in group
        ]  # fmt: skip
        groups.append((removed(group[0].blocks).capitalize(), lines))
    return Table(head, groups, "Tokens and time: mean over seeds.")


def drift_table(
    result: "StudyResult", drift: Mapping[str, Sequence[figures.Point]], styles: Mapping[str, Style]
) -> Table | None:
    """How far every arm's answers lie from the unpruned model's; none if it was not measured."""
    if not drift:
        return None
    names = {"similarity": "similarity of answers", "agreement": "next-token agreement, %", "kl": "KL, nats"}
    shown = {name: label for name, label in names.items() if name in drift}
    by_key = {(name, one.name, one.place): one for name, values in drift.items() for one in values}
    groups = []
    for group in by_blocks(at_largest(result.rows)):
        lines = []
        for row in group:
            found = [by_key.get((name, row.arm, str(row.blocks))) for name in shown]
            if any(found):
                digits = [1 if name == "agreement" else 3 for name in shown]
                cells = [_with_interval(one, count) for one, count in zip(found, digits, strict=True)]
                lines.append(Line([Cell(row.arm, styles[row.arm]), *cells]))
        if lines:
            groups.append((removed(group[0].blocks).capitalize(), lines))
    first = next(one.drift for one in result.outcomes if one.drift is not None)
    note = (
        f"{len(first.tokens):,} questions, {sum(first.tokens):,} tokens of the unpruned model's answers. 95 % "
        "intervals over questions, each with its mean over seeds. KL is the unpruned model's divergence from the "
        "model, per token."
    )
    return Table(["arm", *shown.values()], groups, note)


def _with_interval(one: figures.Point | None, digits: int) -> str:
    if one is None:
        return "-"
    text = f"{one.value:.{digits}f}"
    return text if one.low is None else f"{text} ({one.low:.{digits}f} to {one.high:.{digits}f})"


def health_table(result: "StudyResult", styles: Mapping[str, Style]) -> Table | None:
    """Whether every arm's own answers are sound; none if it was not measured."""
    groups = []
    measured = [one.drift for one in result.outcomes if one.drift is not None]
    if not measured:
        return None

    def line(name: Cell | str, many: Sequence[Any]) -> Line:
        means = {key: fmean(getattr(one, key) for one in many) for key in _HEALTH}
        return Line([name, *(percent(means[key]) for key in _HEALTH[:-1]), f"{means['length']:.0f}"])

    groups.append(("No block removed", [line("unpruned", [measured[0].base_health])]))
    for group in by_blocks(at_largest(result.rows)):
        lines = [
            line(Cell(row.arm, styles[row.arm]), [one.health for one in drifts])
            for row in group
            if (drifts := drifts_of(result, row))
        ]
        groups.append((removed(group[0].blocks).capitalize(), lines))
    head = ["arm", "empty", "unfinished", "looping", "repeated 4-grams", "tokens"]
    return Table(head, groups, "Of the models' own answers, mean over seeds; tokens is the mean length.")
