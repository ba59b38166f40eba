"""What a promotion came to: the decision of the gates, and what was done."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from regrow.files import canonical_digest
from regrow.promotion.gate import Gate
from regrow.promotion.gates import SOUND
from regrow.promotion.policy import Rules
from regrow.promotion.record import GateLine, Placed, Target

# Long findings are cut in the record's lines, which MLflow keeps as parameters; the decision has them whole.
_SHORT = 160
# Folder of decisions in a version's MLflow run.
DECISIONS = "promotions"


def decision_name(digest: str) -> str:
    """Return the file name of a decision."""
    return f"{digest[:16]}.json"


class Decision(BaseModel):
    """What the gates said of a version, and the state of affairs that they said it in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["promotion", "rollback"]
    name: str = Field(description="registered model")
    version: Placed
    target: Target
    holder: Placed | None = Field(description="who had the alias at the time of the gates")
    gates: tuple[Gate, ...]
    rules: Rules = Field(description="the policy for this alias")
    line: int = Field(description="line of the promotion record that this decision may become")
    previous: str = Field(description="hash of the line before; if another promotion comes first, it is void")
    who: str
    when: str = Field(description="UTC, RFC 3339")
    notes: tuple[str, ...] = Field((), description="what was found half-done before, and what became of it")

    @property
    def passed(self) -> bool:
        """Whether every gate was passed."""
        return all(gate.passed for gate in self.gates)

    @property
    def failed(self) -> list[Gate]:
        """The gates that were not."""
        return [gate for gate in self.gates if not gate.passed]

    @property
    def sound(self) -> bool:
        """Whether record and version are what they were, whatever else the policy asks for."""
        return all(gate.passed for gate in self.gates if gate.name in SOUND)

    @property
    def digest(self) -> str:
        """Digest of the decision, which the record names."""
        return canonical_digest(self.model_dump(mode="json"))

    @property
    def path(self) -> str:
        """Where the decision lies in the version's MLflow run."""
        return f"{DECISIONS}/{decision_name(self.digest)}"

    def short_gates(self, *, cut: int = _SHORT) -> tuple[GateLine, ...]:
        """The gates as the record has them."""
        return tuple(
            GateLine(name=gate.name, passed=gate.passed, observed=gate.observed[:cut]) for gate in self.gates
        )

    def table(self, *, only_failed: bool = False) -> str:
        """The gates as a Markdown table."""
        rows = [
            (gate.name, "passed" if gate.passed else "FAILED", gate.observed, gate.asked)
            for gate in (self.failed if only_failed else self.gates)
        ]
        return table(("gate", "", "found", "asked for"), rows)


class Outcome(BaseModel):
    """What was done."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Literal["promoted", "refused", "unchanged", "repaired"]
    name: str
    decision: Decision | None = Field(None, description="none where nothing was to be decided")
    forced: bool = False
    reason: str | None = None
    record: int | None = Field(None, description="line of the promotion record")
    hash: str | None = Field(None, description="hash of its end")
    notes: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        """Exit status of the command: 3 where gates refused."""
        return 3 if self.status == "refused" else 0

    def text(self) -> str:
        """Tell it, with the table of gates."""
        lines = list(self.notes)
        one = self.decision
        if one is None:
            return "\n".join(lines) or f"{self.name}: nothing to do"
        what = f"{self.name} version {one.version.version}"
        if self.status == "unchanged":
            lines.append(f"{what} is {one.target} already")
        elif self.status == "refused":
            lines += [
                f"{what} is not promoted to {one.target}. Gates that failed:",
                one.table(only_failed=True),
            ]
        else:
            done = "promoted" if one.kind == "promotion" else "rolled back"
            before = f" (before: version {one.holder.version})" if one.holder else ""
            forced = f", forced: {self.reason}" if self.forced else ""
            lines += [
                f"{what} {done} to {one.target}{before}, line {self.record} of the record{forced}",
                one.table(),
            ]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as `promotion.json` has it."""
        value = self.model_dump(mode="json")
        return value | ({"passed": self.decision.passed} if self.decision else {})


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Draw a Markdown table, its columns aligned."""
    cells = [head, *(tuple(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]

    def line(row: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    return "\n".join(
        [line(head), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, cells[1:])]
    )
