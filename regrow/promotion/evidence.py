"""What statements say of a version: those that its folder carries, and those that its MLflow runs keep."""

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.checkpoint import PROVENANCE
from regrow.lineage import AuditResult, SigningSettings, Statement, Verifier, audit_folder
from regrow.lineage.shelf import read_shelf
from regrow.registry.licences import LicenceChain, licences_of
from regrow.registry.names import LICENCES_TAG, SCORES_TAG
from regrow.registry.server import no_bars
from regrow.registry.statement import version_digest

if TYPE_CHECKING:
    from regrow.evaluate.scores import Scores
    from regrow.promotion.facts import VersionFacts


@dataclass(frozen=True)
class Carried:
    """What a version's folder carries.

    Attributes:
        audit: the folder, held against its statements.
        attested: whether there are any.
        licences: what the statements say of base and data.
    """

    audit: AuditResult
    attested: bool
    licences: LicenceChain

    @classmethod
    def of(cls, folder: Path, verifier: Verifier | None) -> "Carried":
        """Read a folder: its weights once."""
        audit = audit_folder(folder, verifier=verifier)
        return cls(audit, (folder / PROVENANCE).is_dir(), licences_of(folder))

    def trained_on(self) -> set[str]:
        """Digests of the sets that a model of the chain was tuned on; of a mixture, those that went into it."""
        found: set[str] = set()
        left = self._sets("tune")
        while left:
            one = left.pop()
            parts = set() if self.verdicts(one) else self._sets("mix", one) - found - {one}
            left |= parts
            found |= set() if parts else {one}
        return found

    def verdicts(self, dataset: str) -> list[dict[str, Any]]:
        """What was stated when the data gate judged a set, each time; it states what it lets pass and no more."""
        return [one.details for one in self.audit.chain if (one.stage, one.subject) == ("validate", dataset)]

    def _sets(self, stage: str, subject: str | None = None) -> set[str]:
        return {
            origin.digest.removeprefix("sha256:")
            for link in self.audit.chain
            if link.stage == stage and subject in (None, link.subject)
            for origin in link.materials
            if origin.name == "dataset"
        }


@dataclass(frozen=True)
class Stated:
    """The statements in a version's MLflow runs that verify."""

    facts: "VersionFacts"
    statements: tuple[Statement, ...]

    @cached_property
    def registered(self) -> list[dict[str, Any]]:
        """What the version was registered as, each time."""
        one = version_digest(self.facts.name, self.facts.version, self.facts.digest)
        return [
            found.details
            for found in self.statements
            if found.stage == "register" and found.subject.sha256 == one
        ]

    def bears_out(self, scores: "Scores", digest: str) -> bool | None:
        """Whether somebody stated these scores; None if nothing is stated of this model's scores.

        Args:
            scores: of the version, or of the base it was compared with.
            digest: of the scores.
        """
        evaluations = {
            one.subject.sha256
            for one in self.statements
            if one.stage == "evaluate" and scores.digest in {origin.sha256 for origin in one.materials}
        }
        if evaluations:
            return digest in evaluations
        # Registered from a file of scores, whose own statement lies elsewhere.
        if scores.digest == self.facts.digest and (told := [one.get(SCORES_TAG) for one in self.registered]):
            return digest in told
        return None

    def licences(self) -> list[str] | None:
        """The licences that it was registered with, each time; None if no statement says."""
        return [str(one[LICENCES_TAG]) for one in self.registered if LICENCES_TAG in one] or None


def stated(facts: "VersionFacts") -> Stated:
    """Read the statements that a version's runs keep.

    Those that were edited do not count, and with a key to check with those that it did not sign.
    """
    from mlflow.exceptions import MlflowException

    verifier = SigningSettings.from_environment().verifier()
    found: dict[str, Statement] = {}
    for run in facts.runs:
        with tempfile.TemporaryDirectory(prefix="regrow-promote-") as scratch, no_bars():
            try:
                facts.client.download_artifacts(run, PROVENANCE, scratch)
            except (MlflowException, OSError):
                continue
            shelf = read_shelf(Path(scratch), verifier)
        found |= {
            key: one
            for key, one in shelf.statements.items()
            if all(check.outcome != "failed" for check in shelf.checks[key])
        }
    return Stated(facts, tuple(found.values()))
