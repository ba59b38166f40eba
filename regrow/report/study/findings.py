"""What a study says, in sentences that are computed from its rows and pairs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regrow.report.numbers import between, listed, p_text, points

if TYPE_CHECKING:
    from regrow.study import Pair, Row, StudyResult

# More comparisons than these are counted; the plot and the table below have them all.
_TOLD = 12


@dataclass(frozen=True)
class Findings:
    """The headline, and the comparisons by how they came out."""

    headline: str
    lead: str  # whether the best arm's lead is significant
    better: Sequence[tuple[str, str]]  # arm, its differences
    worse: Sequence[tuple[str, str]]
    undecided: Sequence[tuple[str, str]]
    unknown: Sequence[tuple[str, str]]  # without scores per item there is no test


def findings(result: "StudyResult") -> Findings:
    """Say which arm does best at every size of cut, by how much, and which differences are significant.

    Where sizes of the training set differ, the best is looked for among arms trained on the largest; comparisons are
    told for every size.
    """
    rows = at_largest(result.rows)
    best = [_best(group) for group in by_blocks(rows)]
    by_verdict: dict[str, list[Pair]] = {}
    for pair in result.pairs:
        by_verdict.setdefault(pair.verdict, []).append(pair)
    sized = is_sized(result.rows)
    kinds = ("better", "worse", "not significant", "unknown")
    return Findings(
        _headline(best),
        _lead(best, result),
        *(_told(by_verdict.get(kind, []), sized=sized) for kind in kinds),
    )


def at_largest(rows: Sequence["Row"]) -> list["Row"]:
    """Return the rows with the largest training set of the study, and those of untuned arms."""
    sizes = {row.records for row in rows if row.seeds}
    largest = None if None in sizes else max((size for size in sizes if size is not None), default=None)
    return [row for row in rows if not row.seeds or row.records == largest]


def by_blocks(rows: Sequence["Row"]) -> list[list["Row"]]:
    """Return the rows of every size of cut."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.blocks, []).append(row)
    return list(groups.values())


def is_sized(rows: Sequence["Row"]) -> bool:
    """Whether sizes of the training set differ."""
    return len({row.records for row in rows if row.seeds}) > 1


def size_of(records: int | None) -> str:
    """Name a size of the training set."""
    return "all records" if records is None else f"{records:,} records"


def removed(blocks: int) -> str:
    """Name a size of cut."""
    return f"{blocks} block{'s' if blocks != 1 else ''} removed"


def _best(group: Sequence["Row"]) -> "Row":
    return max(group, key=lambda row: row.recovery.mean)


def _recovery(row: "Row", name: str = "") -> str:
    value = f"{100 * row.recovery.mean:.1f} %"
    interval = between(row.interval.low, row.interval.high)
    return f"{value} ({name}{interval})" if interval else value


def _headline(best: Sequence["Row"]) -> str:
    """Name the best arm of every size of cut; sizes with the same best arm are told together."""
    arms: dict[str, list[Row]] = {}
    for row in best:
        arms.setdefault(row.arm, []).append(row)
    told: list[str] = []
    for arm, rows in arms.items():
        parts: list[str] = []
        for row in rows:
            opens = not told and not parts
            share = _recovery(row, "95 % interval " if opens else "")
            what = " of the unpruned model's mean score" if opens else ""
            parts.append(f"{share}{what} with {removed(row.blocks) if not parts else row.blocks}")
        where = " at every size of cut" if len(arms) == 1 and len(best) > 1 else ""
        told.append(f"{arm} recovers most{where}, {listed(parts)}" if not told else f"{arm}, {listed(parts)}")
    if len(arms) == 1:
        return f"{told[0]}."
    return f"No arm is best at every size of cut: {'; '.join(told)}."


def _lead(best: Sequence["Row"], result: "StudyResult") -> str:
    """Say whether the best arm is ahead of the reference by more than chance; the reference itself, of the others."""
    pairs = {(pair.blocks, pair.records, pair.ours): pair for pair in result.pairs}
    sure: list[str] = []
    unsure: list[str] = []
    told: list[str] = []
    for row in best:
        if row.arm == result.reference:
            rivals = [
                pair for pair in result.pairs if (pair.blocks, pair.records) == (row.blocks, row.records)
            ]
            if rivals:
                told.append(f"With {removed(row.blocks)} {row.arm} {_ahead(rivals)}.")
        elif pair := pairs.get((row.blocks, row.records, row.arm)):
            said = (
                f"with {removed(row.blocks)} ({points(pair.comparison.difference)} points, {p_text(pair.p)})"
            )
            if pair.p is not None:
                (sure if pair.verdict == "better" else unsure).append(said)
        elif result.pairs:
            told.append(
                f"With {removed(row.blocks)} {row.arm} leads, which was not compared with {result.reference}."
            )
    lead = [f"significant {listed(sure)}"] if sure else []
    lead += [f"not significant {listed(unsure)}"] if unsure else []
    if lead:
        told.insert(0, f"The lead over {result.reference} is {', but '.join(lead)}.")
    return " ".join(told)


def _ahead(rivals: Sequence["Pair"]) -> str:
    beaten = [pair.ours for pair in rivals if pair.verdict == "worse"]
    if not beaten:
        return "is not significantly ahead of any other arm"
    rest = len(rivals) - len(beaten)
    said = f"is significantly ahead of {listed(beaten)}"
    return said + (
        f", but not of the other {rest}" if rest > 1 else ", but not of the other arm" if rest else ""
    )


def _told(pairs: Sequence["Pair"], *, sized: bool) -> list[tuple[str, str]]:
    """Return the arms with their differences in words; how many, where there are too many to read."""
    arms: dict[str, list[str]] = {}
    if len(pairs) > _TOLD:
        counts = Counter(pair.ours for pair in pairs)
        return [(arm, f"in {count} comparison{'s' if count > 1 else ''}") for arm, count in counts.items()]
    for pair in pairs:
        said = arms.setdefault(pair.ours, [])
        size = f" and {size_of(pair.records)}" if sized else ""
        found = pair.comparison
        interval = between(found.low, found.high, signed=True)
        where = f"with {removed(pair.blocks)}{size}" if sized or not said else f"with {pair.blocks}"
        unit = "" if said else " points"
        said.append(f"{points(found.difference)}{unit} {f'({interval}) ' if interval else ''}{where}")
    return [(arm, ", ".join(said)) for arm, said in arms.items()]
