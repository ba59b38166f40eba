"""What the gate asks for, and what it found."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from regrow.selfdata.rule import REFUSALS, TASK_PHRASES

Severity = Literal["stop", "warn"]

# Every check by its stable name, with how bad a failure is unless the specification says otherwise. Those that
# read signs in the text can be wrong about a row, so they warn, except where a few rows do great harm.
SEVERITIES: dict[str, Severity] = {
    "columns": "stop",
    "column types": "stop",
    "records": "stop",
    "rows left": "stop",
    "id present": "stop",
    "id unique": "stop",
    "instruction not empty": "stop",
    "response not empty": "stop",
    "response length": "stop",
    "length ratio": "warn",
    "duplicate responses": "warn",
    "truncated": "warn",
    "task phrases": "stop",
    "refusals": "stop",
    "script": "stop",
    "personal data": "warn",
    "secrets": "stop",
    "decision known": "stop",
    "acceptance rate": "stop",
    "final answer": "stop",
    "reference answer": "warn",
    "kept reference": "stop",
    "letter balance": "warn",
    "chat template": "stop",
    "token budget": "warn",
    "contamination": "stop",
}


class GateSpec(BaseModel):
    """The thresholds of the gate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on_fail: Literal["stop", "quarantine"] = Field(
        "stop",
        description="when a check of severity stop fails. stop: nothing goes on; quarantine: the rows that "
        "offend such checks are taken out, and the rest is judged again",
    )
    max_quarantine_rate: float = Field(
        0.5, ge=0, le=1, description="largest share of rows that quarantine may take out; more is a failure"
    )
    min_records: int = Field(8, ge=1, description="fewest records")
    min_acceptance_rate: float = Field(0.25, ge=0, le=1, description="smallest share of accepted rewrites")
    max_tokens: int = Field(2048, ge=1, description="longest response, in tokens")
    max_conversation_tokens: int = Field(
        1024,
        ge=8,
        description="tokens of question and response in the chat template; what training takes "
        "(tune.max_length)",
    )
    max_overlong_rate: float = Field(
        0.02, ge=0, le=1, description="largest share of rows over max_conversation_tokens"
    )
    min_length_ratio: float = Field(0.02, ge=0, description="characters of a response over its reference's")
    max_length_ratio: float = Field(50.0, gt=0, description="characters of a response over its reference's")
    length_ratio_share: float = Field(0.95, ge=0, le=1, description="share of rows within the two ratios")
    max_duplicate_rate: float = Field(0.2, ge=0, le=1, description="largest share of repeated responses")
    max_phrase_rate: float = Field(
        0.0, ge=0, le=1, description="largest share of rows with a rewrite that speaks about its task"
    )
    max_refusal_rate: float = Field(
        0.01, ge=0, le=1, description="largest share of rows whose response refuses"
    )
    max_truncated_rate: float = Field(
        0.05, ge=0, le=1, description="largest share of rows whose response breaks off"
    )
    max_reference_error_rate: float = Field(
        0.02, ge=0, le=1, description="largest share of references that do not end in their record's answer"
    )
    max_foreign_letters: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of a response's letters in scripts that neither question nor reference uses, "
        "above which the row counts as drifted",
    )
    max_drift_rate: float = Field(0.01, ge=0, le=1, description="largest share of drifted rows")
    max_personal_rate: float = Field(
        0.01, ge=0, le=1, description="largest share of rows with an e-mail address, a telephone number, ..."
    )
    max_secret_rate: float = Field(0.0, ge=0, le=1, description="largest share of rows with a key or token")
    max_letter_share: float = Field(
        0.6, gt=0, le=1, description="choice: largest share of one answer letter among the records"
    )
    letter_balance_records: int = Field(
        40, ge=1, description="choice: fewest records with a letter for which the balance is judged"
    )
    banned_phrases: tuple[str, ...] = Field(TASK_PHRASES, description="phrases no rewrite may hold")
    refusal_phrases: tuple[str, ...] = Field(REFUSALS, description="phrases by which a refusal is known")
    contamination_words: int = Field(
        13, ge=5, description="successive words shared with an evaluation item that count as contamination"
    )
    severity: dict[str, Severity] = Field(
        default_factory=dict, description="stop or warn for checks by name, in place of the default"
    )

    @field_validator("severity")
    @classmethod
    def _checks_exist(cls, severity: dict[str, Severity]) -> dict[str, Severity]:
        if unknown := sorted(set(severity) - set(SEVERITIES)):
            raise ValueError(f"there is no check {unknown[0]!r}; the checks are {', '.join(SEVERITIES)}")
        if fixed := sorted(
            {"columns", "column types"} & {one for one in severity if severity[one] == "warn"}
        ):
            raise ValueError(f"{fixed[0]!r} always stops: without it nothing else can be judged")
        return severity

    @model_validator(mode="after")
    def _bounds_in_order(self) -> "GateSpec":
        if self.min_length_ratio >= self.max_length_ratio:
            raise ValueError("min_length_ratio must be below max_length_ratio")
        return self

    def severity_of(self, check: str) -> Severity:
        """Return what a failure of a check does."""
        return self.severity.get(check, SEVERITIES[check])


class Finding(BaseModel):
    """One expectation and how the data met it."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="the check's stable name")
    column: str = Field(description="the column it looks at; empty for the table as a whole")
    success: bool
    severity: Severity
    observed: str = Field(description="what was found, in words")
    threshold: str = Field(description="what was asked for, in words")
    value: float | None = Field(description="what was found as a number: a share of rows, a rate, a count")
    advice: str = Field(description="what to do when it fails")
    expectation: str = Field(description="the Great Expectations expectation that was run")
    offending: list[dict[str, Any]] = Field(
        description="up to five rows: row, id, value, text (clipped, personal data masked)"
    )


class GateResult(BaseModel):
    """The verdict on a set."""

    model_config = ConfigDict(frozen=True)

    passed: bool = Field(description="no expectation of severity stop failed")
    dataset: str
    family: str = Field("open", description="the suite it was held against: choice, math, text or open")
    digest: str = Field(description="digest of the data that was judged")
    records: int
    removed: int = Field(0, description="rows taken out before this verdict")
    removed_by: dict[str, int] = Field(
        default_factory=dict, description="rows taken out by check; a row counts for each that it offends"
    )
    expectations: list[Finding]
    validation: dict[str, Any] = Field(
        default_factory=dict, description="Great Expectations' own result; lists of rows are cut"
    )
    quarantine: Path | None = Field(
        None, exclude=True, description="file with every offending row, where this verdict was made"
    )

    def failed(self) -> list[Finding]:
        """The expectations that were not met, those that stop the run first."""
        return sorted((one for one in self.expectations if not one.success), key=lambda one: one.severity)
