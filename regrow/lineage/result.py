"""What an audit found."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Outcome = Literal["passed", "failed", "not checked"]
SignatureState = Literal["valid", "invalid", "unsigned", "unchecked"]


class _Found(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Failure(_Found):
    """Something that does not verify."""

    what: str = Field(description="kind of the failure, such as: tensor changed")
    where: str = Field(description="the file, tensor, statement or link")
    expected: str
    found: str


class Check(_Found):
    """One thing that was looked at."""

    what: str
    outcome: Outcome
    detail: str = ""


class Origin(_Found):
    """A material of a link."""

    name: str = Field(description="kind of the material")
    digest: str = Field(description="algorithm:hexadecimal")
    uri: str | None = None
    statement: str | None = Field(None, description="id of the statement about it; null for a leaf")
    kind: Literal["statement", "source", "value", "missing"] = Field(
        description="statement: the chain goes on; source: from outside; value: known by digest alone"
    )


class Link(_Found):
    """A statement of the chain."""

    stage: str
    kind: str = Field(description="kind of the result: checkpoint, dataset, scores, ...")
    subject: str = Field(description="SHA-256 of the result")
    statement: str = Field(description="id of the statement")
    role: Literal["result", "material", "later"] = Field(
        description="result: about what was audited; material: what that rests on; later: rests on it"
    )
    finished: str = Field(description="when the stage ended, RFC 3339")
    signature: SignatureState
    materials: list[Origin]
    checks: list[Check]
    parameters: dict[str, Any]
    details: dict[str, Any]
    builder: dict[str, Any]

    @property
    def sound(self) -> bool:
        """Whether nothing about this link failed."""
        return all(one.outcome != "failed" for one in self.checks)


class Findings(_Found):
    """What a further check adds to an audit."""

    failures: list[Failure] = Field(default_factory=list)
    not_checked: list[str] = Field(default_factory=list)
    checks: list[Check] = Field(default_factory=list)


class AuditResult(_Found):
    """Whether a folder is what its statements say, and where it came from."""

    target: str
    verified: bool = Field(description="nothing failed; see not_checked for what that leaves open")
    digest: str = Field(description="digest of the folder as it is now")
    kind: str = Field(description="checkpoint, dataset, ...; unknown without a statement")
    signature: SignatureState = Field(description="of the whole chain: the weakest of its links")
    chain: list[Link] = Field(description="from the result to its sources; later statements at the end")
    failures: list[Failure]
    not_checked: list[str]
    checks: list[Check] = Field(
        default_factory=list, description="of the folder, and against registries and stores"
    )
    seconds: dict[str, float] = Field(default_factory=dict, description="hashing the files, and the rest")

    @property
    def statement(self) -> str | None:
        """Id of the statement about the result."""
        return next((one.statement for one in self.chain if one.role == "result"), None)

    def with_findings(self, more: Iterable[Findings]) -> "AuditResult":
        """Return the result with what further checks found."""
        failures, not_checked, checks = list(self.failures), list(self.not_checked), list(self.checks)
        for one in more:
            failures += one.failures
            not_checked += one.not_checked
            checks += one.checks
        changes = {
            "failures": failures,
            "not_checked": not_checked,
            "checks": checks,
            "verified": not failures,
        }
        return self.model_copy(update=changes)


# A check against something outside the folder: a registry, a promotion record, a store.
Other = Callable[[AuditResult], Findings]


def weakest(states: Iterable[SignatureState]) -> SignatureState:
    """Return the state of a chain from those of its links."""
    found = set(states)
    order: tuple[SignatureState, ...] = ("invalid", "unsigned", "unchecked", "valid")
    return next((one for one in order if one in found), "unsigned")
