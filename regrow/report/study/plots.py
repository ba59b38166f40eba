"""The plots of a study."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from regrow.report import evaluation, figures, palette
from regrow.report.numbers import p_text, points
from regrow.report.palette import Style
from regrow.report.study.cells import drifts_of, outcomes_of, records_of
from regrow.report.study.findings import at_largest, by_blocks, is_sized, removed, size_of

if TYPE_CHECKING:
    from regrow.study import Pair, Row, StudyResult


def draw(
    result: "StudyResult", styles: Mapping[str, Style], drift: Mapping[str, Sequence[figures.Point]]
) -> dict[str, str]:
    """Draw everything that the study measured, by name."""
    rows = at_largest(result.rows)
    recovery = figures.Panel(
        "Recovery by blocks removed (bar: 95 % interval; ticks: seeds)",
        [_point(row, str(row.blocks), _seeds(result, row)) for row in rows],
        "recovery, %", "blocks removed", 100.0, "unpruned",
    )  # fmt: skip
    drawn = {"recovery": figures.points_svg([recovery], styles, height=4.1)}
    if is_sized(result.rows):
        drawn["sizes"] = figures.points_svg(
            [
                figures.Panel(
                    removed(group[0].blocks).capitalize(),
                    [_point(row, records_of(row), _seeds(result, row)) for row in _ordered(group)],
                    "recovery, %", "records trained on",
                )
                for group in by_blocks(result.rows)
            ],
            styles,
        )  # fmt: skip
    if result.pairs:
        sized = len({pair.records for pair in result.pairs}) > 1
        drawn["pairs"] = figures.differences_svg(
            [_difference(pair, sized) for pair in result.pairs], styles, str(result.reference)
        )
    similar = _similarities(result)
    if similar:
        drawn["similarity"] = figures.similarity_svg(similar, styles)
    if drift:
        names = {"kl": "KL to the unpruned model, nats", "agreement": "next-token agreement, %"}
        drawn["drift"] = figures.points_svg(
            [
                figures.Panel(names[name][:1].upper() + names[name][1:], drift[name], "", "blocks removed")
                for name in names
            ],
            styles,
        )
    drawn["pareto"] = _pareto(result, rows, styles)
    if losses := _losses(result):
        drawn["loss"] = figures.losses_svg(losses, styles)
    return drawn


def _point(row: "Row", place: str, each: Sequence[float]) -> figures.Point:
    found = row.interval
    low, high = (None if end is None else 100 * end for end in (found.low, found.high))
    return figures.Point(row.arm, place, 100 * row.recovery.mean, low, high, tuple(100 * one for one in each))


def _ordered(group: Sequence["Row"]) -> list["Row"]:
    """Return the tuned rows, the smallest training set first."""
    return sorted(
        (row for row in group if row.seeds),
        key=lambda row: float("inf") if row.records is None else row.records,
    )


def _seeds(result: "StudyResult", row: "Row") -> list[float]:
    return [one.scores.mean / result.base.mean for one in outcomes_of(result, row)]


def _difference(pair: "Pair", sized: bool) -> figures.Difference:
    found = pair.comparison
    label = removed(pair.blocks) + (f", {size_of(pair.records)}" if sized else "")
    significant = pair.verdict != "not significant"
    note = f"{points(found.difference)}, {p_text(pair.p)}"
    return figures.Difference(label, pair.ours, found.difference, found.low, found.high, significant, note)


def _similarities(result: "StudyResult") -> dict[str, dict[str, list[float]]]:
    found: dict[str, dict[str, list[float]]] = {}
    for row in at_largest(result.rows):
        values = [value for one in drifts_of(result, row) for value in one.similarity or ()]
        if values:
            found.setdefault(row.arm, {})[removed(row.blocks)] = values
    return found


def _pareto(result: "StudyResult", rows: Sequence["Row"], styles: Mapping[str, Style]) -> str:
    from regrow.study import pooled

    base = result.base
    first = figures.Model("unpruned", 1.0, base.mean, *evaluation.mean_interval(base), "unpruned")
    models = [first]
    for row in rows:
        low, high = evaluation.mean_interval(pooled([one.scores for one in outcomes_of(result, row)]))
        share = row.flops_per_token / base.flops_per_token
        models.append(figures.Model(row.arm, share, row.mean.mean, low, high, removed(row.blocks)))
    return figures.pareto_svg(models, {"unpruned": palette.UNPRUNED, **styles})


def _losses(result: "StudyResult") -> dict[str, dict[str, list[Sequence[Mapping[str, Any]]]]]:
    """Return the logs of training by size of cut and arm, of the largest training set."""
    found: dict[str, dict[str, list[Sequence[Mapping[str, Any]]]]] = {}
    for row in at_largest(result.rows):
        logs: list[Sequence[Mapping[str, Any]]] = [
            tuning.log for one in outcomes_of(result, row) for tuning in one.tunings if tuning.log
        ]
        if logs:
            found.setdefault(removed(row.blocks).capitalize(), {})[row.arm] = logs
    return found
