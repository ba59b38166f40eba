"""Running the suite with Great Expectations 1.x: in memory, silent, nothing sent anywhere."""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from regrow.errors import GateFailedError
from regrow.quality import frame, suite
from regrow.quality.page import clip, explain
from regrow.quality.spec import Finding, GateResult, GateSpec
from regrow.selfdata.store import SelfData

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

_OFFENDING = 5


def validate(
    data: SelfData,
    spec: GateSpec,
    name: str,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    eval_texts: Iterable[str] | None = None,
) -> GateResult:
    """Hold a rewritten set against the suite.

    Args:
        data: the set; its summary names the family by which final answers are compared.
        spec: thresholds and severities.
        name: what the result calls the set.
        tokenizer: the student's; without it the chat template is not checked.
        eval_texts: evaluation items; without them contamination is not checked.
    """
    rows = data.rows()
    findings = _run(frame.typed(rows), list(suite.schema_checks()), spec)
    # Nothing can be computed from rows that lack columns or hold other types.
    if all(finding.success for finding in findings):
        family = str(data.summary.get("family", "open"))
        table = frame.build(rows, spec, family, tokenizer, eval_texts)
        findings += _run(table, list(suite.content_checks(spec, list(table.columns))), spec)
    passed = all(finding.success or finding.severity == "warn" for finding in findings)
    result = GateResult(
        passed=passed, dataset=name, digest=data.digest, records=len(rows), expectations=findings
    )
    for finding in result.failed():
        log.warning("%s: %s: %s; asked for: %s", name, finding.name, finding.observed, finding.threshold)
    return result


def enforce(result: GateResult) -> None:
    """Let a set that passed go on.

    Raises:
        GateFailedError: an expectation of severity stop failed; the message names each with offending rows.
    """
    if not result.passed:
        raise GateFailedError(explain(result))


def _run(table: "pd.DataFrame", checks: list[suite.Check], spec: GateSpec) -> list[Finding]:
    with _quiet():
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
        batch = asset.add_batch_definition_whole_dataframe("all")
        for number, check in enumerate(checks):
            check.expectation.meta = {"check": number}
            check.expectation.severity = "critical" if spec.severity_of(check.name) == "stop" else "warning"
        expectations = [check.expectation for check in checks]
        expected = context.suites.add(gx.ExpectationSuite(name="gate", expectations=expectations))
        definition = gx.ValidationDefinition(name="gate", data=batch, suite=expected)
        outcome = context.validation_definitions.add(definition).run(
            batch_parameters={"dataframe": table},
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]},
        )
    # GX groups results by column; people read them in the order of the suite.
    results = sorted(outcome.results, key=lambda one: one.expectation_config.meta["check"])
    return [_finding(checks[one.expectation_config.meta["check"]], one, table, spec) for one in results]


def _finding(check: suite.Check, outcome: Any, table: "pd.DataFrame", spec: GateSpec) -> Finding:
    observed, value = _observed(outcome, is_rate=bool(check.column))
    if check.name == "acceptance rate":
        counts = table["decision"].value_counts().sort_index()
        observed += f" ({', '.join(f'{decision}: {count}' for decision, count in counts.items())})"
    offending = [] if outcome.success else _offending(check, outcome.result, table)
    return Finding(
        name=check.name,
        column=check.column,
        success=bool(outcome.success),
        severity=spec.severity_of(check.name),
        observed=observed,
        threshold=check.threshold,
        value=value,
        advice=check.advice,
        expectation=str(outcome.expectation_config.type),
        offending=offending,
    )


def _observed(outcome: Any, *, is_rate: bool) -> tuple[str, float | None]:
    """Put a GX result into words and one number; its numpy scalars become Python's."""
    result = outcome.result
    if outcome.exception_info.get("raised_exception"):
        return f"could not be computed ({outcome.exception_info.get('exception_message')})", None
    if "details" in result:
        missing = result["details"].get("mismatched", {}).get("missing", [])
        return (f"missing: {', '.join(missing)}" if missing else "all there"), float(len(missing))
    if "unexpected_count" in result:
        count, rows = int(result["unexpected_count"]), int(result["element_count"])
        share = count / rows if rows else 0.0
        met = (
            f"all {rows} rows meet it"
            if not count
            else f"{count} of {rows} rows do not meet it ({share:.1%})"
        )
        return met, share
    value = result.get("observed_value")
    if value is None:
        return "no rows", None
    number = float(value)
    return (f"{number:.1%}" if is_rate else f"{number:g}"), number


def _offending(check: suite.Check, result: dict[str, Any], table: "pd.DataFrame") -> list[dict[str, Any]]:
    if check.name == "duplicate responses":
        numbers = table.index[table[check.column].duplicated(keep=False)].tolist()
    else:
        numbers = [int(entry["row"]) for entry in result.get("unexpected_index_list") or []]
    if check.name == "acceptance rate":
        numbers = table.index[table["accepted"] == 0].tolist()
    rows = []
    for number in numbers[:_OFFENDING]:
        row = table.iloc[number]
        value = row["decision"] if check.column == "accepted" else row[check.column]
        if check.column == "answer_agrees":
            value = f"{row['stated_answer']} instead of {row['answer']}"
        text = row["response"] if check.column == "accepted" else row[check.shown]
        rows.append({"row": int(number), "id": _plain(row["id"]), "value": _plain(value), "text": clip(text)})
    return rows


def _plain(value: Any) -> str | int | float | bool | None:
    """Return what JSON can hold."""
    if value is None or value != value:
        return None
    if isinstance(value, bool | int | float):
        return value
    return clip(value)


@contextmanager
def _quiet() -> Iterator[None]:
    # Read when GX is imported: without it, it reports to its makers.
    os.environ["GX_ANALYTICS_ENABLED"] = "False"
    parent = logging.getLogger("great_expectations")
    before = {parent: parent.level}
    parent.setLevel(logging.ERROR)
    import great_expectations  # noqa: F401 - some of its loggers set a level of their own when imported

    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("great_expectations.", "posthog")):
            logger = logging.getLogger(name)
            before[logger] = logger.level
            logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)
