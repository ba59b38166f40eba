"""What the gate asks for, and what it found."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from regrow.selfdata.rule import REFUSALS, TASK_PHRASES

Severity = Literal["stop", "warn"]

# Every check by its stable name, with how bad a failure is unless the specification says otherwise.
SEVERITIES: dict[str, Severity] = {
    "columns": "stop",
    "column types": "stop",
    "records": "stop",
    "id present": "stop",
    "id unique": "stop",
    "instruction not empty": "stop",
    "response not empty": "stop",
    "response length": "stop",
    "length ratio": "warn",
    "duplicate responses": "warn",
    "task phrases": "stop",
    "refusals": "stop",
    "decision known": "stop",
    "acceptance rate": "stop",
    "final answer": "stop",
    "kept reference": "stop",
    "chat template": "stop",
    "contamination": "stop",
}


class GateSpec(BaseModel):
    """The thresholds of the gate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_records: int = Field(8, ge=1, description="fewest records")
    min_acceptance_rate: float = Field(0.25, ge=0, le=1, description="smallest share of accepted rewrites")
    max_tokens: int = Field(2048, ge=1, description="longest response, in tokens")
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
    offending: list[dict[str, Any]] = Field(description="up to five rows: row, id, value, text (clipped)")


class GateResult(BaseModel):
    """The verdict on a set."""

    model_config = ConfigDict(frozen=True)

    passed: bool = Field(description="no expectation of severity stop failed")
    dataset: str
    digest: str = Field(description="digest of the data that was judged")
    records: int
    expectations: list[Finding]

    def failed(self) -> list[Finding]:
        """The expectations that were not met, those that stop the run first."""
        return sorted((one for one in self.expectations if not one.success), key=lambda one: one.severity)
