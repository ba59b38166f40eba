"""What was compared of one subject, and what came of it."""

from regrow.lineage import Check, Failure, Findings


class Compared:
    """Failures, checks and notes of one subject."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.failures: list[Failure] = []
        self.checks: list[Check] = []
        self.not_checked: list[str] = []

    def expect(self, what: str, place: str, expected: str | None, found: str | None) -> None:
        """Note whether what the registry says (`found`) is what the statements say (`expected`)."""
        if expected == found:
            self.checks.append(
                Check(what=what, outcome="passed", detail=f"{self.where}: {(found or '')[:12]}")
            )
            return
        where = f"{self.where}, {place}"
        self.failures.append(
            Failure(what=what, where=where, expected=expected or "nothing", found=found or "nothing")
        )
        self.checks.append(Check(what=what, outcome="failed", detail=where))

    def note(self, text: str) -> None:
        """Note what could not be compared."""
        self.not_checked.append(f"{self.where}: {text}")

    def findings(self) -> Findings:
        """Return it all."""
        return Findings(failures=self.failures, checks=self.checks, not_checked=self.not_checked)
