"""The gate: a rewritten set in; the set that may be trained on, the verdict and the quarantine file out."""

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.errors import GateFailedError, InputError
from regrow.files import atomic_file, canonical_digest
from regrow.lineage import describe_folder, material, record
from regrow.quality import data_docs, frame, quarantine, suite
from regrow.quality.page import explain, page
from regrow.quality.run import Outcome, run
from regrow.quality.spec import GateResult, GateSpec
from regrow.selfdata import store
from regrow.selfdata.store import SelfData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

Row = dict[str, Any]
# What a summary says of just the rows that it was made with.
_OF_THESE_ROWS = {"records", "decisions", "acceptance_rate", "acceptance_by_attempt", "digest", "key"}


@dataclass(frozen=True, slots=True)
class Passage:
    """What the gate gives back.

    Attributes:
        accepted: the rows that may be trained on; None when the gate was not passed.
        result: the verdict; `result.quarantine` is the file with the offending rows.
    """

    accepted: SelfData | None
    result: GateResult

    def accepted_or_stop(self) -> SelfData:
        """Return the accepted set.

        Raises:
            GateFailedError: the gate was not passed; the message says why, with offending rows.
        """
        if self.accepted is None:
            raise GateFailedError(explain(self.result))
        return self.accepted


def pass_gate(
    data: SelfData,
    spec: GateSpec,
    name: str,
    out: Path,
    documents: Path | None = None,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    eval_texts: Iterable[str] | None = None,
) -> Passage:
    """Take evaluation items out, hold the rest against its family's suite, and do as `spec.on_fail` says.

    With `quarantine`, the rows that offend a check of severity stop are taken out when one of these checks
    fails, and the rest is judged again. Rows keep their order.

    Args:
        data: the rewritten set; its summary names the family.
        spec: thresholds, severities, and what happens on a failure.
        name: what the verdict calls the set.
        out: folder for the accepted set, written only if the gate is passed.
        documents: folder for quarantine.jsonl, gate.json, gate.html and data_docs.html (default: `out`).
        tokenizer: the student's; without it neither chat template nor tokens are checked.
        eval_texts: evaluation items; without them contamination is not checked.
    """
    started = datetime.now(UTC)
    documents = documents or out
    judged = _Judged(data.rows())
    if eval_texts is not None:
        judged.take_out_contaminated(eval_texts, spec)
    outcome = judged.hold(spec, data, tokenizer)
    while not outcome.passed and spec.on_fail == "quarantine" and judged.take_out_offenders(outcome, spec):
        outcome = judged.hold(spec, data, tokenizer)
    rows = judged.remaining()
    file = documents / "quarantine.jsonl"
    result = _result(outcome, name, data, rows).model_copy(
        update={
            "removed": len(judged.removed),
            "removed_by": judged.removed_by(spec),
            "quarantine": file.absolute(),
        }
    )
    accepted = None
    if result.passed:
        details = {"before": data.digest, "contaminated": judged.contaminated}
        if quarantined := len(judged.removed) - judged.contaminated:
            details["quarantined"] = quarantined
        accepted = store.save(rows, _details_of_the_whole(data) | details, out)
    quarantine.write(file, judged.rows, judged.failed, judged.removed)
    for document, text in pages(result).items():
        with atomic_file(documents / document) as scratch:
            scratch.write_text(text, encoding="utf-8")
    if accepted is not None:  # last: a set's statement names every file in its folder
        _state(accepted, data, result, spec, started)
    for line in _said(result):
        log.warning("%s: %s", name, line)
    return Passage(accepted, result)


def _state(accepted: SelfData, data: SelfData, result: GateResult, spec: GateSpec, started: datetime) -> None:
    """State which set was held against which suite, what was asked for and what was found."""
    record(
        "validate",
        (accepted.folder, describe_folder(accepted.folder, "dataset", accepted.digest)),
        [material(data.folder, "dataset", digest=data.digest)],
        parameters=spec.model_dump(mode="json"),
        details={
            "verdict": verdict_digest(result.model_dump_json()),
            "passed": result.passed,
            "family": result.family,
            "records": result.records,
            "removed": result.removed_by,
            "suite": {
                one.name: {"passed": one.success, "observed": one.observed} for one in result.expectations
            },
        },
        started=started,
        inherit=[data.folder],
    )


def verdict_digest(text: str) -> str:
    """Return what names a verdict (gate.json) in statements: SHA-256 over it without Great Expectations' own result."""
    value = json.loads(text)
    value.pop("validation", None)
    return canonical_digest(value)


def pages(result: GateResult) -> dict[str, str]:
    """Return the verdict as JSON, as a page, and as Great Expectations' Data Docs, by file name."""
    return {
        "gate.json": result.model_dump_json(indent=2) + "\n",
        "gate.html": page(result),
        "data_docs.html": data_docs.page(result),
    }


def validate(
    data: SelfData,
    spec: GateSpec,
    name: str,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    eval_texts: Iterable[str] | None = None,
) -> GateResult:
    """Hold a rewritten set against the suite of its family, as it is: nothing is taken out or written.

    Args:
        data: the set; its summary names the family by which final answers are compared.
        spec: thresholds and severities.
        name: what the result calls the set.
        tokenizer: the student's; without it neither chat template nor tokens are checked.
        eval_texts: evaluation items; without them contamination is not checked.
    """
    judged = _Judged(data.rows())
    if eval_texts is not None:
        judged.overlaps = frame.contaminated(judged.rows, eval_texts, spec.contamination_words)
    result = _result(judged.hold(spec, data, tokenizer), name, data, judged.rows)
    for line in _said(result):
        log.warning("%s: %s", name, line)
    return result


def enforce(result: GateResult) -> None:
    """Let a set that passed go on.

    Raises:
        GateFailedError: an expectation of severity stop failed; the message names each with offending rows.
    """
    if not result.passed:
        raise GateFailedError(explain(result))


@dataclass
class _Judged:
    """A set on its way through the gate; rows are known by their number in the set that came in."""

    rows: list[Row]
    overlaps: list[bool] | None = None  # with evaluation items, row by row
    removed: set[int] = field(default_factory=set)
    failed: dict[int, list[str]] = field(default_factory=dict)
    contaminated: int = 0
    computed: dict[int, Row] = field(default_factory=dict)  # once; later only fewer rows are left

    def remaining(self) -> list[Row]:
        return [self.rows[number] for number in self._numbers()]

    def removed_by(self, spec: GateSpec) -> dict[str, int]:
        """Count the rows that were taken out by what took them out; one row may count several times."""
        return dict(
            Counter(
                name
                for number in sorted(self.removed)
                for name in self.failed[number]
                if spec.severity_of(name) == "stop" or self.failed[number] == [quarantine.CONTAMINATION]
            )
        )

    def take_out_contaminated(self, texts: Iterable[str], spec: GateSpec) -> None:
        self.overlaps = frame.contaminated(self.rows, texts, spec.contamination_words)
        for number, found in enumerate(self.overlaps):
            if found:
                self.failed[number] = [quarantine.CONTAMINATION]
                self.removed.add(number)
        self.contaminated = len(self.removed)

    def hold(self, spec: GateSpec, data: SelfData, tokenizer: "PreTrainedTokenizerBase | None") -> Outcome:
        """Judge the rows that are left and note which offend what."""
        numbers, family = self._numbers(), _family(data)
        name = f"{family} data"
        outcome = run(
            frame.typed({number: self.rows[number] for number in numbers}), suite.schema(), spec, name
        )
        if all(finding.success for finding in outcome.findings):
            if not self.computed:
                overlaps = None if self.overlaps is None else [self.overlaps[number] for number in numbers]
                found = frame.compute(self.remaining(), spec, family, tokenizer, overlaps)
                self.computed = dict(zip(numbers, found, strict=True))
            table = frame.build({number: self.computed[number] for number in numbers}, spec, family)
            quarantined = len(self.removed) > self.contaminated
            before = len(self.rows) - self.contaminated if quarantined else None
            outcome = run(table, suite.suite(family, spec, list(table.columns), before), spec, name)
        for check, offenders in outcome.offenders.items():
            for number in offenders:
                names = self.failed.setdefault(number, [])
                if check not in names:
                    names.append(check)
        return outcome

    def take_out_offenders(self, outcome: Outcome, spec: GateSpec) -> bool:
        """Remove the rows that offend a check of severity stop; return whether there were any."""
        offenders = {
            number
            for name, numbers in outcome.offenders.items()
            if spec.severity_of(name) == "stop"
            for number in numbers
        }
        self.removed |= offenders
        return bool(offenders)

    def _numbers(self) -> list[int]:
        return [number for number in range(len(self.rows)) if number not in self.removed]


def _details_of_the_whole(data: SelfData) -> dict[str, Any]:
    """Return what a summary says of a set that still holds when rows are gone; `store.save` counts anew."""
    return {key: value for key, value in data.summary.items() if key not in _OF_THESE_ROWS}


def _family(data: SelfData) -> str:
    family = str(data.summary.get("family", "open"))
    if family not in suite.SUITES:
        raise InputError(
            f"{data.folder / 'summary.json'}: family: {family!r} is unknown; use {', '.join(suite.SUITES)}"
        )
    return family


def _result(outcome: Outcome, name: str, data: SelfData, rows: Sequence[Row]) -> GateResult:
    return GateResult(
        passed=outcome.passed,
        dataset=name,
        family=_family(data),
        digest=data.digest if len(rows) == data.summary.get("records") else canonical_digest(rows),
        records=len(rows),
        expectations=outcome.findings,
        validation=outcome.validation,
    )


def _said(result: GateResult) -> list[str]:
    """What goes to the log: rows that went, and checks that failed."""
    lines = []
    if result.removed:
        reasons = ", ".join(f"{name}: {count}" for name, count in result.removed_by.items())
        lines.append(f"{result.removed} rows taken out ({reasons})")
    for finding in result.failed():
        lines.append(f"{finding.name}: {finding.observed}; asked for: {finding.threshold}")  # noqa: PERF401
    return lines
