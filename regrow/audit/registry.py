"""What MLflow says of a checkpoint, held against the statements that the checkpoint carries."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from regrow.audit.compared import Compared
from regrow.audit.registrations import Registrations, document, document_digest
from regrow.checkpoint import PROVENANCE
from regrow.errors import InputError
from regrow.lineage import AuditResult, Check, Failure, Findings, Other, Statement, Verifier
from regrow.lineage.result import Outcome
from regrow.lineage.shelf import read_shelf
from regrow.lineage.values import scores_digest
from regrow.registry.names import DATA_PREFIX, DIGEST_TAG, SCORES_TAG, STAGES, ZENML_TAG, first_line
from regrow.registry.server import current, no_bars

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

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


def _tags(version: "Version", result: AuditResult) -> Findings:
    """Compare the version's facts with the chain's."""
    compared = Compared(f"MLflow {version.label}")
    tags = version.tags
    compared.expect("digest of the version", f"tag {DIGEST_TAG}", result.digest, version.digest)
    stated = {one.statement for one in result.chain if one.role == "result"}
    if _ATTESTATION in tags:
        said = tags[_ATTESTATION]
        expected = said if said in stated else (result.statement or "no statement about this checkpoint")
        compared.expect("statement of the version", "tag regrow.attestation", expected, said)
    else:
        compared.note("no tag regrow.attestation")
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


class _Kept(NamedTuple):
    """What the runs of a version keep."""

    version: "Version"
    verifier: Verifier | None
    stated: list[Statement]
    registrations: Registrations
    # Metrics; None where no run can be read.
    shown: dict[str, float] | None


def _kept(version: "Version", verifier: Verifier | None) -> Findings:
    """Compare what the version's runs keep with each other: statements, configuration, evaluation, numbers shown."""
    compared = Compared(f"MLflow {version.label}")
    runs = _runs(version, compared)
    stated = _statements(list(runs), verifier, compared)
    own_run = version.run_id is None or version.run_id in runs
    kept = _Kept(
        version,
        verifier,
        stated,
        Registrations(version, stated, own_run=own_run),
        {key: value for one in reversed(runs.values()) for key, value in one.items()} if runs else None,
    )
    if kept.registrations:
        kept.registrations.compare(compared, kept.shown)
    else:
        # Without a key a forged statement would do as well.
        _missing("registration", "its tags", compared, is_failure=verifier is not None)
    _configuration(kept, compared)
    _evaluation(kept, compared)
    return compared.findings()


def _runs(version: "Version", compared: Compared) -> dict[str, dict[str, float]]:
    """Return the version's runs that are there, the one that wrote it last first, with the metrics of each."""
    from mlflow.exceptions import MlflowException

    from regrow.registry.versions import runs_of

    found = {}
    for run in runs_of(version):
        try:
            found[run] = dict(current().get_run(run).data.metrics)
        except MlflowException as error:
            compared.note(f"its MLflow run {run} cannot be read ({first_line(error)})")
    return found


def _missing(what: str, place: str, compared: Compared, *, is_failure: bool) -> None:
    """Note that the runs hold no statement about something; a failure where it must be there."""
    if is_failure:
        compared.expect(
            f"statement of the {what}", f"{place}, and {PROVENANCE}/ of its runs", "a statement", None
        )
    else:
        compared.note(f"its runs hold no statement about the {what}")


def _configuration(kept: _Kept, compared: Compared) -> None:
    said, found = kept.version.tags.get("regrow.config"), document_digest(kept.version, "config")
    if said is not None and found is not None and found not in kept.registrations.later("config"):
        compared.expect("configuration", "registered/config.json", said, found)


def _evaluation(kept: _Kept, compared: Compared) -> None:
    from regrow.registry.versions import scores_of

    said, registered = kept.version.tags.get(SCORES_TAG), kept.registrations.outcome.get(SCORES_TAG)
    if said is None:
        if registered is None:
            compared.note("registered without an evaluation")
        return
    # Of several evaluations `scores_of` finds the one that the tag means, so what was registered is read by itself.
    scores = scores_of(kept.version)
    there = document(kept.version, "scores")
    own = scores if there is None else _scores(there)
    found = scores_digest(own) if own else None
    if found is None or found not in kept.registrations.later("scores"):
        compared.expect("evaluation", "registered/scores.json", said, found)
    about = {one.subject.sha256 for one in kept.stated if one.stage == "evaluate"}
    place, what = f"tag {SCORES_TAG}", "evaluation"
    if said in about:
        compared.expect(f"statement of the {what}", place, said, said)
    elif said == registered or not about:
        # `regrow register --scores` leaves none: there the statement of the registration vouches for the evaluation.
        _missing(what, place, compared, is_failure=kept.verifier is not None and said != registered)
    else:
        compared.expect(f"statement of the {what}", place, ", ".join(sorted(filter(None, about))), said)
    if scores is not None:
        _shown_numbers(scores, kept, compared)


def _scores(document: Any) -> "Scores | None":
    from pydantic import ValidationError

    from regrow.evaluate.scores import Scores

    try:
        return Scores.model_validate(document)
    except ValidationError:
        return None


def _shown_numbers(scores: "Scores", kept: _Kept, compared: Compared) -> None:
    """Compare the metrics that MLflow shows with the item scores that they are means of."""
    evaluations = [
        one.details
        for one in kept.stated
        if one.stage == "evaluate" and any(origin.sha256 == scores.digest for origin in one.materials)
    ]
    for task, score in scores.scores.items():
        metric = "".join(char if char.isalnum() or char in "_-." else "_" for char in score.metric)
        key = f"evaluate.{scores.name}.{task}.{metric}"
        found = (kept.shown or {}).get(key)
        # A version that was registered again with another evaluation lies in a run that shows the earlier one.
        if found is not None and (
            found == score.value or found not in [one.get(task) for one in evaluations]
        ):
            compared.expect(f"metric {key}", "metrics of the run", repr(score.value), repr(found))


def _record(version: "Version", verifier: Verifier | None) -> Findings:
    """Check the promotion record of the model."""
    import mlflow

    from regrow.promotion import verify_record

    client = mlflow.MlflowClient()
    problems = verify_record(client, version.name, verifier=verifier)
    failures = [
        Failure(what=one.what, where=one.where, expected=one.expected or "", found=one.found or "")
        for one in problems
    ]
    place = f"MLflow {version.name}, promotion record"
    if not _was_promoted(client, version.name):
        failures += _unearned(version)
        if not failures:
            return Findings(not_checked=[f"promotion record: none, MLflow {version.name} was never promoted"])
    standing = ", ".join(version.aliases) or "no alias"
    return Findings(
        failures=failures,
        checks=[
            Check(
                what="promotion record",
                outcome="failed" if failures else "passed",
                detail=f"{place}: version {version.number} is {standing}",
            )
        ],
    )


def _was_promoted(client: "MlflowClient", name: str) -> bool:
    """Whether the model has a promotion record with a line in it; also where one is there and cannot be read."""
    from regrow.promotion import Record
    from regrow.promotion.database import in_files, on_database

    if in_files(client):
        return False
    try:
        with on_database(client):
            record = Record.find(client, name)
            return record is not None and bool(record.lines())
    except InputError:  # `verify_record` tells it
        return True


def _unearned(version: "Version") -> list[Failure]:
    """The aliases that a version holds and promotion alone gives."""
    return [
        Failure(
            what="held without a promotion record",
            where=f"MLflow {version.name}, alias {alias}",
            expected=f"moved by `regrow promote {version.name} {version.number} --to {alias}`",
            found=f"version {version.number}, moved by hand",
        )
        for alias in STAGES
        if alias in version.aliases
    ]


def _zenml(version: "Version", zenml: StageFacts | None) -> Findings:
    """Compare the two registries."""
    from regrow.registry import mismatches

    if ZENML_TAG not in version.tags:
        return Findings(not_checked=[f"ZenML: MLflow {version.label} was registered without it"])
    try:
        facts = zenml(version) if zenml else None
    except Exception as error:  # whatever ZenML's client raises, of any kind of server
        return Findings(not_checked=[f"ZenML: not asked about MLflow {version.label} ({first_line(error)})"])
    if facts is None:
        return Findings(not_checked=[f"ZenML: not reached; MLflow {version.label} names its version there"])
    found = mismatches(version.facts(), facts)
    where = f"ZenML, model version {version.tags[ZENML_TAG]}"
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


def _statements(runs: list[str], verifier: Verifier | None, compared: Compared) -> list[Statement]:
    """Return the statements that lie in the version's runs, the latest last; note those that do not verify."""
    from mlflow.exceptions import MlflowException

    found: dict[str, Statement] = {}
    for run in runs:
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
