"""The evaluation of a run: differences to the unpruned model, drift, measured cost, drafting."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, pvariance
from typing import TYPE_CHECKING, Any

from regrow import __version__
from regrow.report import figures
from regrow.report.numbers import between, in_bytes, p_value, percent, points, scaled
from regrow.report.palette import Style
from regrow.report.table import Cell, Line, Table

if TYPE_CHECKING:
    from regrow.evaluate.drift import Drift
    from regrow.evaluate.health import Health
    from regrow.evaluate.paired import Comparison, TaskComparison
    from regrow.evaluate.scores import Scores
    from regrow.evaluate.speculative import Speculation
    from regrow.evaluate.speed import Speed

# What a reader needs to know of the settings, in this order; the configuration has them all.
_VERSIONS = ("lm_eval", "transformers", "torch")
_SETTINGS = ("dtype", "batch_size", "chat_template", "seed")


def comparisons(scores: Sequence["Scores"]) -> list["Comparison"]:
    """Compare every model with the first, item by item; none if no task was evaluated."""
    from regrow.evaluate.paired import compare

    if not scores or not scores[0].scores:
        return []
    return [compare(one, scores[0]) for one in scores[1:]]


def differences_table(found: Sequence["Comparison"], styles: Mapping[str, Style]) -> Table:
    """The difference of the mean score of every model to the unpruned one's."""
    lines = [
        Line([
            Cell(one.name, styles[one.name]), points(one.difference), between(one.low, one.high, signed=True),
            p_value(one.p), "-" if one.detectable is None else f"{100 * one.detectable:.1f}",
            Cell(one.verdict, kind="wide"),
        ])
        for one in found
    ]  # fmt: skip
    head = ["model", "mean score, points", "95 % interval", "p", "detectable, points", "verdict"]
    samples, draws = found[0].samples, found[0].draws
    return Table(
        head,
        [("", lines)],
        f"Paired over {samples:,} items, bootstrap with {draws:,} draws; p values of this table are not adjusted for "
        f"the number of models. Detectable: the smallest true difference that is found with power 0.8 at level 0.05.",
    )


def tasks_table(found: Sequence["Comparison"], styles: Mapping[str, Style]) -> Table:
    """Every model's difference to the unpruned one on every task."""
    groups = []
    for place, first in enumerate(found[0].tasks):
        lines = []
        for one in found:
            task = one.tasks[place]
            lines.append(
                Line([
                    Cell(one.name, styles[one.name]), f"{100 * task.ours:.1f}", points(task.difference),
                    between(task.low, task.high, signed=True), p_value(task.p_bootstrap), p_value(task.p_mcnemar),
                    f"{task.ours_only} : {task.theirs_only}",
                ])
            )  # fmt: skip
        groups.append(
            (
                f"{first.task} ({first.metric}), {first.samples:,} items, unpruned {100 * first.theirs:.1f}",
                lines,
            )
        )
    head = ["model", "score", "difference, points", "95 % interval", "p", "p, McNemar", "items won : lost"]
    return Table(head, groups, "p: paired bootstrap. McNemar's exact test where items are right or wrong.")


def draw_differences(found: Sequence["Comparison"], styles: Mapping[str, Style]) -> str:
    """Draw the differences of the mean and of every task."""

    def one(name: str, of: "Comparison | TaskComparison") -> figures.Difference:
        clear = of.low is not None and of.high is not None and (of.low > 0 or of.high < 0)
        return figures.Difference("", name, of.difference, of.low, of.high, clear)

    panels = {"mean": [one(each.name, each) for each in found]}
    if len(found[0].tasks) > 1:
        for place, task in enumerate(found[0].tasks):
            panels[task.task] = [one(each.name, each.tasks[place]) for each in found]
    return figures.task_differences_svg(panels, styles)


def drift_table(drifts: Sequence["Drift"], styles: Mapping[str, Style]) -> Table:
    """How far every model's answers lie from the unpruned model's."""
    similar = any(one.similarity for one in drifts)
    lines = []
    for one in drifts:
        found = one.estimates()
        cells: list[Cell | str] = [Cell(one.name, styles[one.name])]
        for name, digits, scale in (("similarity", 3, 1.0), ("agreement", 1, 100.0), ("kl", 3, 1.0)):
            if name == "similarity" and not similar:
                continue
            cells.append(_estimate(found[name], digits, scale) if name in found else "-")
        lines.append(Line([*cells, percent(sum(one.same) / len(one.same))]))
    head = [
        "model", *(["similarity of answers"] if similar else []), "next-token agreement, %", "KL, nats", "same answer"
    ]  # fmt: skip
    first = drifts[0]
    note = (
        f"{len(first.tokens):,} questions, {sum(first.tokens):,} tokens of the unpruned model's answers; 95 % "
        "intervals over questions. KL is the unpruned model's divergence from the model, per token."
    )
    return Table(head, [("", lines)], note)


def _estimate(found: Any, digits: int, scale: float) -> str:
    text = f"{scale * found.value:.{digits}f}"
    if found.low is None or found.high is None:
        return text
    return f"{text} ({scale * found.low:.{digits}f} to {scale * found.high:.{digits}f})"


def health_table(drifts: Sequence["Drift"], styles: Mapping[str, Style]) -> Table:
    """Whether models' own answers are sound; the unpruned model's stand first."""
    rows: list[tuple[Cell, Health]] = [(Cell(one.name, styles[one.name]), one.health) for one in drifts]
    if all(one.model != one.base for one in drifts):
        rows.insert(0, (Cell("unpruned", styles.get("base")), drifts[0].base_health))
    lines = [
        Line([
            cell, percent(one.empty), percent(one.unfinished), percent(one.looping), percent(one.repetition),
            f"{one.length:.0f}",
        ])
        for cell, one in rows
    ]  # fmt: skip
    head = ["model", "empty", "unfinished", "looping", "repeated 4-grams", "tokens"]
    return Table(head, [("", lines)], "Of the models' own answers; tokens is the mean length.")


def speed_table(speeds: Sequence["Speed"], styles: Mapping[str, Style]) -> Table:
    """What every model costs when it runs; the first is the unpruned one."""
    groups = []
    found = [one.summary(speeds[0]) for one in speeds]
    for size in found[0]["batches"]:
        lines = []
        for one, facts in zip(speeds, found, strict=True):
            row = facts["batches"][size]
            cells: list[Cell | str] = [Cell(one.name, styles[one.name])]
            for kind in ("prefill", "decode"):
                cells.append(_range(row.get(f"{kind}_ms"), "{:,.1f}"))
                rate = row.get(f"{kind}_tokens_per_second")
                cells.append("-" if rate is None else f"{rate:,.0f}")
                cells.append("" if one is speeds[0] else _range(row.get(f"{kind}_speedup"), "{:.2f}"))
            lines.append(Line(cells))
        groups.append((f"{size} at one time" if size != "1" else "one prompt at a time", lines))
    head = [
        "model", "prefill, ms", "tokens/s", "times as fast", "decode step, ms", "tokens/s", "times as fast",
    ]  # fmt: skip
    first = speeds[0]
    threads = f", {first.threads} threads" if first.device == "cpu" else ""
    note = (
        f"Prompts of {first.prompt_tokens} tokens, {first.new_tokens} new ones, {first.dtype} on "
        f"{first.device}{threads}. Medians over rounds in which the models took turns (quickest "
        "to slowest); ratios are taken within rounds."
    )
    return Table(head, groups, note)


def size_table(speeds: Sequence["Speed"], styles: Mapping[str, Style]) -> Table:
    """Bytes, memory and operations of every model."""
    lines = [
        Line([
            Cell(one.name, styles[one.name]), scaled(one.parameters), in_bytes(one.checkpoint_bytes),
            in_bytes(one.memory_bytes), scaled(one.flops_per_token),
            "-" if one.flops_counted is None else scaled(one.flops_counted),
        ])
        for one in speeds
    ]  # fmt: skip
    head = ["model", "parameters", "checkpoint", "peak memory", "FLOPs/token, formula", "by torch's counter"]
    return Table(head, [("", lines)])


def _range(found: Mapping[str, float] | None, form: str) -> str:
    if found is None:
        return "-"
    return f"{form.format(found['value'])} ({form.format(found['low'])} to {form.format(found['high'])})"


def drafting_table(drafts: Sequence["Speculation"]) -> Table:
    """Models as drafts for the unpruned one, by the number of drafted tokens."""
    groups = []
    for found in drafts:
        facts = found.summary()
        lines = [
            Line([
                tokens, percent(row["acceptance"]), f"{row['accepted_per_pass']:.2f}",
                f"{row['tokens_per_second']:,.1f}", _range(row["speedup"], "{:.2f}"), f"{row['predicted']:.2f}",
                f"{row['break_even']:.2f}", f"{row['differing']} of {found.prompts}",
            ])
            for tokens, row in facts["drafts"].items()
        ]  # fmt: skip
        label = (
            f"{found.name}: a pass costs {facts['cost_ratio']:.2f} of the unpruned model's, which alone writes "
            f"{facts['tokens_per_second']:,.1f} tokens/s"
        )
        groups.append((label, lines))
    head = [
        "drafted", "accepted", "accepted per pass", "tokens/s", "times as fast", "predicted", "break-even cost",
        "differing outputs",
    ]  # fmt: skip
    note = (
        f"Greedy decoding of {drafts[0].prompts} prompts, one at a time; medians over rounds (slowest to quickest). A "
        "gain is promised where a pass of the draft costs less than the break-even cost."
    )
    return Table(head, groups, note)


def mean_interval(scores: "Scores") -> tuple[float | None, float | None]:
    """Return the 95 % interval of the mean score over tasks: normal, over items; none if it is unknown."""
    total = 0.0
    for task in scores.scores.values():
        if len(task.items) > 1:
            total += pvariance(task.items) / (len(task.items) - 1)
        elif task.stderr is not None:
            total += task.stderr**2
        else:
            return None, None
    reach = 1.96 * math.sqrt(total) / max(1, len(scores.scores))
    middle = fmean(task.value for task in scores.scores.values())
    return middle - reach, middle + reach


def draw_pareto(scores: Sequence["Scores"], styles: Mapping[str, Style]) -> str:
    """Draw the models' cost and quality; the first is the unpruned one."""
    base = scores[0]
    return figures.pareto_svg(
        [
            figures.Model(one.name, one.flops_per_token / base.flops_per_token, one.mean, *mean_interval(one))
            for one in scores
        ],
        styles,
    )


def draw_similarity(drifts: Sequence["Drift"], styles: Mapping[str, Style]) -> str | None:
    """Draw how alike the models' answers are to the unpruned model's; none if it was not measured."""
    values = {one.name: {"": one.similarity} for one in drifts if one.similarity}
    return figures.similarity_svg(values, styles) if values else None


def facts(scores: "Scores") -> dict[str, str]:
    """Return the versions and settings of an evaluation, as far as they were recorded."""
    named = {name: scores.settings[name] for name in (*_VERSIONS, *_SETTINGS) if name in scores.settings}
    written = {
        name.replace("_", " " if name in _SETTINGS else "-"): str(value) for name, value in named.items()
    }
    return {"regrow": __version__} | written
