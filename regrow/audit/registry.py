"""What MLflow says of a checkpoint, held against the statements that the checkpoint carries."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.checkpoint import PROVENANCE
from regrow.errors import InputError
from regrow.files import canonical_digest
from regrow.lineage import AuditResult, Check, Failure, Findings, Other, Statement, Verifier
from regrow.lineage.result import Outcome
from regrow.lineage.shelf import read_shelf
from regrow.lineage.values import scores_digest
from regrow.registry.names import DATA_PREFIX, DIGEST_TAG, SCORES_TAG, first_line, is_fact
from regrow.registry.server import current, no_bars
from regrow.registry.statement import version_digest

if TYPE_CHECKING:
    from regrow.evaluate.scores import Scores
    from regrow.registry.versions import Version

_ATTESTATION = "regrow.attestation"
# What ZenML holds of a version in MLflow: its metadata and stage; None where it has no such version.
StageFacts = Callable[["Version"], Mapping[str, Any] | None]


def is_configured() -> bool:
    """Whether the user has named an MLflow server or database."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI") or os.environ.get("MLFLOW_REGISTRY_URI"))


def version_with_digest(digest: str) -> "Version":
    """Return the newest registered version that was made of a checkpoint.

    Raises:
        InputError: no registered model has one.
    """
    found = _versions_with(digest)
    if not found:
        import mlflow

        raise InputError(
            f"{digest[:12]}: no version at {mlflow.get_tracking_uri()} has this digest; name the folder, or set "
            "MLFLOW_TRACKING_URI to the registry that knows it"
        )
    return found[0]


def _versions_with(digest: str) -> list["Version"]:
    import mlflow

    from regrow.registry.server import clear_errors
    from regrow.registry.versions import find

    with clear_errors():
        there = mlflow.MlflowClient().search_model_versions(f"tags.`{DIGEST_TAG}` = '{digest}'")
    newest = sorted(there, key=lambda one: -int(one.creation_timestamp))
    return [find(f"{one.name}/{one.version}") for one in newest]


def if_registered(zenml: StageFacts | None = None, verifier: Verifier | None = None) -> Other:
    """Return a check that looks for the audited digest in the registry, and asks it about every version found."""

    def check(result: AuditResult) -> Findings:
        try:
            found = _versions_with(result.digest)
        except InputError as error:
            return Findings(not_checked=[f"registry: not reached ({error})"])
        if not found:
            return Findings(not_checked=["registry: it knows no version with this digest"])
        # The same bytes may have been made twice, by the same run of the same code at two times: a version with another
        # statement is then another making's. Only if no version has this one's was a statement exchanged.
        stated = {one.statement for one in result.chain if one.role == "result"}
        same = [one for one in found if one.tags.get(_ATTESTATION) in stated] or found
        others = [
            f"registry: {one.label} has the same digest and another statement; audit it by its name"
            for one in found
            if one not in same
        ]
        parts = [other(result) for version in same for other in against_registry(version, zenml, verifier)]
        return Findings(
            failures=[one for part in parts for one in part.failures],
            not_checked=others + [one for part in parts for one in part.not_checked],
            checks=[one for part in parts for one in part.checks],
        )

    return check


def against_registry(
    version: "Version", zenml: StageFacts | None = None, verifier: Verifier | None = None
) -> tuple[Other, ...]:
    """Return the checks of a folder against a version: its tags, its evaluation, the record, and ZenML.

    Args:
        version: the version.
        zenml: what ZenML says of it; not compared if not given.
        verifier: what the record's signatures are checked with.
    """
    return (
        *against_statements(version, verifier),
        lambda _: _record(version, verifier),
        lambda _: _zenml(version, zenml),
    )


def against_statements(version: "Version", verifier: Verifier | None = None) -> tuple[Other, ...]:
    """Return the checks of a folder against what MLflow says of a version and keeps in its runs, and no more.

    Args:
        version: the version.
        verifier: what signatures of the statements in its runs are checked with.
    """
    return (
        lambda result: _tags(version, result),
        lambda _: _kept(version, verifier),
    )


class _Compared:
    """Failures and checks of one subject."""

    def __init__(self, where: str) -> None:
        self._where = where
        self.failures: list[Failure] = []
        self.checks: list[Check] = []
        self.not_checked: list[str] = []

    def expect(self, what: str, place: str, expected: str | None, found: str | None) -> None:
        """Note whether what the registry says (`found`) is what the statements say (`expected`)."""
        if expected == found:
            self.checks.append(
                Check(what=what, outcome="passed", detail=f"{self._where}: {(found or '')[:12]}")
            )
            return
        where = f"{self._where}, {place}"
        self.failures.append(
            Failure(what=what, where=where, expected=expected or "nothing", found=found or "nothing")
        )
        self.checks.append(Check(what=what, outcome="failed", detail=where))

    def findings(self) -> Findings:
        return Findings(failures=self.failures, checks=self.checks, not_checked=self.not_checked)


def _tags(version: "Version", result: AuditResult) -> Findings:
    """Compare the version's facts with the chain's."""
    compared = _Compared(f"MLflow {version.label}")
    tags = version.tags
    compared.expect("digest of the version", f"tag {DIGEST_TAG}", result.digest, version.digest)
    stated = {one.statement for one in result.chain if one.role == "result"}
    if _ATTESTATION in tags:
        said = tags[_ATTESTATION]
        expected = said if said in stated else (result.statement or "no statement about this checkpoint")
        compared.expect("statement of the version", "tag regrow.attestation", expected, said)
    else:
        compared.not_checked.append(f"MLflow {version.label}: no tag regrow.attestation")
    made = {
        "regrow.base": _subjects(result, "load_model"),
        "regrow.pruned": _subjects(result, "prune"),
        "regrow.plan": _materials(result, "prune", "plan"),
    }
    trained = _materials(result, "tune", "dataset")
    made |= {f"{DATA_PREFIX}{name}": trained for name in version.data}
    for tag, known in made.items():
        if tag in tags and known:
            said = tags[tag]
            compared.expect(tag, f"tag {tag}", said if said in known else ", ".join(sorted(known)), said)
    return compared.findings()


def _subjects(result: AuditResult, stage: str) -> set[str]:
    """Digests of what a stage made, in the chain."""
    return {link.subject for link in result.chain if link.stage == stage}


def _materials(result: AuditResult, stage: str, kind: str) -> set[str]:
    """Digests of what went into a stage, in the chain."""
    return {
        origin.digest.removeprefix("sha256:")
        for link in result.chain
        if link.stage == stage
        for origin in link.materials
        if origin.name == kind
    }


def _kept(version: "Version", verifier: Verifier | None) -> Findings:
    """Compare what the version's runs keep with each other: statements, configuration, evaluation, numbers shown."""
    compared = _Compared(f"MLflow {version.label}")
    stated = _statements(version, verifier, compared)
    _registration(version, stated, compared)
    if (config := _document(version, "config")) is not None and "regrow.config" in version.tags:
        compared.expect(
            "configuration", "registered/config.json", version.tags["regrow.config"], canonical_digest(config)
        )
    _evaluation(version, stated, compared)
    return compared.findings()


def _registration(version: "Version", stated: list[Statement], compared: _Compared) -> None:
    """Compare the version's facts with what was stated when they were registered."""
    name = version_digest(version.name, str(version.number), version.digest or "")
    told = [one.details for one in stated if one.stage == "register" and one.subject.sha256 == name]
    if not told:
        compared.not_checked.append(
            f"MLflow {version.label}: its runs hold no statement about the registration"
        )
        return
    wrong = {
        key: value
        for key, value in version.tags.items()
        if is_fact(key) and all(one.get(key) != value for one in told)
    }
    for key, value in sorted(wrong.items()):
        compared.expect(f"registered as {key}", f"tag {key}", str(told[-1].get(key, "nothing")), value)
    if not wrong:
        compared.checks.append(
            Check(what="registration", outcome="passed", detail=f"MLflow {version.label}: as it was stated")
        )


def _evaluation(version: "Version", stated: list[Statement], compared: _Compared) -> None:
    from regrow.registry.versions import scores_of

    said = version.tags.get(SCORES_TAG)
    if said is None:
        compared.not_checked.append(f"MLflow {version.label}: registered without an evaluation")
        return
    # Of several evaluations `scores_of` finds the one that the tag means, so what was registered is read by itself.
    scores = scores_of(version)
    kept = scores if (document := _document(version, "scores")) is None else _scores(document)
    compared.expect("evaluation", "registered/scores.json", said, scores_digest(kept) if kept else None)
    about = {one.subject.sha256 for one in stated if one.stage == "evaluate"}
    if about:
        expected = said if said in about else ", ".join(sorted(filter(None, about)))
        compared.expect("statement of the evaluation", "tag regrow.scores", expected, said)
    else:
        compared.not_checked.append(
            f"MLflow {version.label}: its run holds no statement about the evaluation"
        )
    if scores is not None:
        _shown_numbers(version, scores, compared)


def _document(version: "Version", name: str) -> Any:
    """Return a document, or what is no document of any digest where it is damaged."""
    from regrow.registry.versions import document_of

    try:
        return document_of(version, name)
    except InputError as error:
        return str(error)


def _scores(document: Any) -> "Scores | None":
    from pydantic import ValidationError

    from regrow.evaluate.scores import Scores

    try:
        return Scores.model_validate(document)
    except ValidationError:
        return None


def _shown_numbers(version: "Version", scores: "Scores", compared: _Compared) -> None:
    """Compare the metrics that MLflow shows with the item scores that they are means of."""
    from mlflow.exceptions import MlflowException

    from regrow.registry.versions import runs_of

    try:
        shown = current().get_run(next(iter(runs_of(version)), "")).data.metrics
    except MlflowException as error:
        compared.not_checked.append(f"MLflow {version.label}: its run cannot be read ({first_line(error)})")
        return
    for task, score in scores.scores.items():
        metric = "".join(char if char.isalnum() or char in "_-." else "_" for char in score.metric)
        key = f"evaluate.{scores.name}.{task}.{metric}"
        if key in shown:
            compared.expect(f"metric {key}", "metrics of the run", repr(score.value), repr(shown[key]))


def _record(version: "Version", verifier: Verifier | None) -> Findings:
    """Check the promotion record of the model."""
    import mlflow

    from regrow.promotion import verify_record

    problems = verify_record(mlflow.MlflowClient(), version.name, verifier=verifier)
    place = f"MLflow {version.name}, promotion record"
    standing = ", ".join(version.aliases) or "no alias"
    return Findings(
        failures=[
            Failure(what=one.what, where=one.where, expected=one.expected or "", found=one.found or "")
            for one in problems
        ],
        checks=[
            Check(
                what="promotion record",
                outcome="failed" if problems else "passed",
                detail=f"{place}: version {version.number} is {standing}",
            )
        ],
    )


def _zenml(version: "Version", zenml: StageFacts | None) -> Findings:
    """Compare the two registries."""
    from regrow.registry import mismatches

    if "zenml.model_version" not in version.tags:
        return Findings(not_checked=[f"ZenML: MLflow {version.label} was registered without it"])
    facts = zenml(version) if zenml else None
    if facts is None:
        return Findings(not_checked=[f"ZenML: not reached; MLflow {version.label} names its version there"])
    found = mismatches(version.facts(), facts)
    where = f"ZenML, model version {version.tags['zenml.model_version']}"
    return Findings(
        failures=[
            Failure(
                what=f"the registries differ in {one.key}",
                where=where,
                expected=one.mlflow or "nothing",
                found=one.zenml or "nothing",
            )
            for one in found
        ],
        checks=[Check(what="ZenML", outcome="failed" if found else "passed", detail=where)],
    )


def _statements(version: "Version", verifier: Verifier | None, compared: _Compared) -> list[Statement]:
    """Return the statements that lie in the version's runs, the latest last; note those that do not verify."""
    from mlflow.exceptions import MlflowException

    from regrow.registry.versions import runs_of

    found: dict[str, Statement] = {}
    for run in runs_of(version):
        with tempfile.TemporaryDirectory(prefix="regrow-audit-") as scratch, no_bars():
            try:
                current().download_artifacts(run, PROVENANCE, scratch)
            except (MlflowException, OSError, json.JSONDecodeError):
                continue
            shelf = read_shelf(Path(scratch), verifier)
        where = f"MLflow run {run}"
        compared.failures += [
            one.model_copy(update={"where": f"{where}, {one.where}"}) for one in shelf.failures
        ]
        outcome: Outcome = "failed" if shelf.failures else "passed"
        detail = f"{where}: {len(shelf.statements)}"
        compared.checks.append(Check(what="statements kept in MLflow", outcome=outcome, detail=detail))
        edited = {one.id for one in shelf.altered.values()}
        found |= {key: one for key, one in shelf.statements.items() if key not in edited}
    return sorted(found.values(), key=lambda one: (one.finished, one.id))
