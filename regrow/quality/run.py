"""Running a suite with Great Expectations 1.x: in memory, silent, nothing sent anywhere."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regrow.quality.checks import Check
from regrow.quality.page import clip
from regrow.quality.personal import mask
from regrow.quality.silence import quiet
from regrow.quality.spec import Finding, GateSpec

if TYPE_CHECKING:
    import pandas as pd

# Rows that a finding names, and that Great Expectations' own result keeps of each list.
_SHOWN = 5
_KEPT = 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a suite found in a table.

    Attributes:
        findings: one for each check, in the order of the suite.
        offenders: `row` of all offending rows, by the name of each check on single rows.
        validation: the result as Great Expectations gives it, as plain JSON, with its lists of rows cut.
    """

    findings: list[Finding]
    offenders: dict[str, list[int]]
    validation: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether no check of severity stop failed."""
        return all(finding.success or finding.severity == "warn" for finding in self.findings)


def run(table: "pd.DataFrame", checks: Sequence[Check], spec: GateSpec, name: str) -> Outcome:
    """Hold a table against checks.

    Args:
        table: rows, known by the column `row`.
        checks: the suite.
        spec: says how bad each failure is.
        name: what Data Docs call the suite.
    """
    with quiet():
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        asset = context.data_sources.add_pandas("gate").add_dataframe_asset("rows")
        batch = asset.add_batch_definition_whole_dataframe("all")
        for number, check in enumerate(checks):
            severity = spec.severity_of(check.name)
            check.expectation.meta = {"check": number, "name": check.name}
            check.expectation.severity = "critical" if severity == "stop" else "warning"
            # What Data Docs say of it.
            check.expectation.description = f"{check.name} ({severity}): {check.threshold}"
        expectations = [check.expectation for check in checks]
        expected = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
        definition = gx.ValidationDefinition(name="gate", data=batch, suite=expected)
        result = context.validation_definitions.add(definition).run(
            batch_parameters={"dataframe": table},
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]},
        )
    # GX groups results by column; people read them in the order of the suite.
    result.results.sort(key=lambda one: one.expectation_config.meta["check"])
    findings, offenders = [], {}
    for check, one in zip(checks, result.results, strict=True):
        if check.by_row:
            offenders[check.name] = [int(row["row"]) for row in one.result.get("unexpected_index_list") or []]
        findings.append(_finding(check, one, table, offenders.get(check.name, []), spec))
        _cut(one.result)
    # Its numbers are NumPy's, which only the way through JSON makes plain.
    return Outcome(findings, offenders, json.loads(json.dumps(result.to_json_dict())))


def _cut(result: dict[str, Any]) -> None:
    """Leave a few rows of lists that are as long as the table."""
    for name in ("unexpected_list", "unexpected_index_query"):
        result.pop(name, None)
    for name in ("unexpected_index_list", "partial_unexpected_index_list", "partial_unexpected_counts"):
        if result.get(name):
            result[name] = result[name][:_KEPT]
    if result.get("unexpected_index_list"):
        # Some expectations leave it out, and then the page cannot name the rows.
        result["unexpected_index_column_names"] = ["row"]


def _finding(check: Check, outcome: Any, table: "pd.DataFrame", rows: list[int], spec: GateSpec) -> Finding:
    observed, value = _observed(outcome, is_rate=bool(check.column))
    if counted := {"acceptance rate": "decision", "letter balance": "answer"}.get(check.name):
        counts = table[counted].value_counts().sort_index()
        observed += f" ({', '.join(f'{one}: {count}' for one, count in counts.items())})"
    if check.name == "duplicate responses":
        rows = table["row"][table[check.column].duplicated(keep=False)].tolist()
    if check.name == "acceptance rate":
        rows = table["row"][table["accepted"] == 0].tolist()
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
        offending=[] if outcome.success else [_offending(check, number, table) for number in rows[:_SHOWN]],
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


def _offending(check: Check, number: int, table: "pd.DataFrame") -> dict[str, Any]:
    row = table.iloc[int(table["row"].searchsorted(number))]
    value = row["decision"] if check.column == "accepted" else row[check.column]
    if check.column in ("answer_agrees", "reference_agrees"):
        value = f"{row[check.column.replace('agrees', 'stated')]} instead of {row['answer']}"
    text = "" if check.shown not in table or row[check.shown] is None else str(row[check.shown])
    return {
        "row": int(number),
        "id": None if row.get("id") is None else clip(row["id"]),
        "value": _plain(value),
        "text": clip(mask(text)),
    }


def _plain(value: Any) -> str | int | float | bool | None:
    """Return what JSON can hold, and people may see."""
    if value is None or value != value:
        return None
    if isinstance(value, bool | int | float):
        return value
    return clip(mask(str(value)))
