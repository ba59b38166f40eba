"""Do the registries say what the promotion record says?"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from regrow.errors import InputError
from regrow.files import canonical_digest
from regrow.lineage.signing import SigningSettings
from regrow.promotion.database import in_files, on_database
from regrow.promotion.facts import VersionFacts
from regrow.promotion.outcome import DECISIONS, decision_name
from regrow.promotion.record import (
    LINE_TAG,
    TARGETS,
    Begun,
    Line,
    Problem,
    Record,
    Target,
    chain_problems,
    staged,
    standing,
    without_line,
)
from regrow.promotion.signing import signatures
from regrow.promotion.stages import STAGE_OF, StageMover
from regrow.registry.journal import search
from regrow.registry.names import DIGEST_TAG
from regrow.registry.server import aliases_of, read_texts

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

    from regrow.lineage import Verifier

# A promotion that goes on meanwhile makes registries and record differ for a moment.
_LOOKS = 3


def verify_record(
    client: "MlflowClient",
    name: str,
    *,
    stages: StageMover | None = None,
    verifier: "Verifier | None" = None,
    decisions: bool = True,
) -> list[Problem]:
    """Check the record of a model, and that versions, aliases and stages are what it says.

    Args:
        client: of the MLflow registry.
        name: registered model.
        stages: the model's versions in ZenML; None: its stages are not checked.
        verifier: what lines' signatures are checked with; what the environment names if not given, and without
            that they are not checked.
        decisions: whether the gates' decision behind each line is fetched and compared, too.

    Returns:
        What does not hold; empty if all does, also for a model that was never promoted.
    """
    if in_files(client):
        return []  # nothing can have been promoted there
    verifier = verifier or SigningSettings.from_environment().verifier()
    with on_database(client):
        try:
            record = Record.find(client, name)
            for _ in range(_LOOKS):
                params = record.params() if record else {}
                found = record_problems(client, name, record, params, verifier, decisions=decisions)
                found += _standing(client, name, Record.lines_in(params), stages)
                if not found or record is None or record.params() == params:
                    break
        except InputError as error:
            return [Problem(what=str(error), where="promotion record")]
        return found


def record_problems(
    client: "MlflowClient",
    name: str,
    record: Record | None,
    params: Mapping[str, str],
    verifier: "Verifier | None",
    *,
    decisions: bool = True,
) -> list[Problem]:
    """Check the record by itself and by what versions and runs hold of it, but not where aliases and stages are.

    Args:
        client: of the MLflow registry.
        name: registered model.
        record: its record; None if there is none.
        params: the record's parameters, as read before; what a promotion writes meanwhile may look wrong.
        verifier: what lines' signatures are checked with; None: they are not.
        decisions: whether the gates' decision behind each line is fetched and compared, too.
    """
    lines = Record.lines_in(params)
    versions = {str(one.version): one for one in search(client, name)}
    problems = chain_problems(params, name) + _tag_problems(versions.values(), lines)
    if record is None:
        return problems
    for line in lines:
        problems += _version_problems(line, versions)
    if decisions:
        problems += _decisions(client, record, lines, versions)
    return problems + signatures(client, record, lines, verifier)


def _standing(
    client: "MlflowClient", name: str, lines: Sequence[Line], stages: StageMover | None
) -> list[Problem]:
    if not lines or lines[-1].end is not None:
        return disagreements(client, name, lines, stages)
    what = "begun and not ended; the next promotion completes or undoes it"
    return [Problem(what=what, where=_where(lines[-1]))]


def disagreements(
    client: "MlflowClient", name: str, lines: Sequence[Line], stages: StageMover | None
) -> list[Problem]:
    """Return where aliases in MLflow and stages in ZenML are not what the record says."""
    if not lines:
        return []
    should, now = standing(lines), aliases_of(client, name)
    problems = [
        _elsewhere(f"{name}, MLflow alias {alias}", should[alias], now.get(alias))
        for alias in TARGETS
        if now.get(alias) != should[alias]
    ]
    if stages is not None:
        for alias, key in zenml_of(client, name, staged(lines)).items():
            stage = STAGE_OF[alias]
            if (held := stages.holder(stage)) != key:
                problems.append(_elsewhere(f"{name}, ZenML stage {stage}", key, held))
    return problems


def zenml_of(
    client: "MlflowClient", name: str, versions: dict[Target, str | None]
) -> dict[Target, str | None]:
    """Return the versions in ZenML that belong to versions in MLflow, by alias."""
    found: dict[Target, str | None] = {}
    for alias, version in versions.items():
        try:
            found[alias] = VersionFacts.of(client, name, version).zenml if version else None
        except InputError:  # deleted; its alias went with it, which is told by itself
            found[alias] = None
    return found


def _elsewhere(where: str, expected: str | None, found: str | None) -> Problem:
    def said(version: str | None) -> str:
        return f"version {version}" if version else "no version"

    what = "not where the promotion record has it"
    return Problem(what=what, where=where, expected=said(expected), found=said(found))


def _where(line: Line) -> str:
    return f"promotion record, line {line.number}"


def _tag_problems(versions: "Iterable[ModelVersion]", lines: Sequence[Line]) -> list[Problem]:
    """Compare what versions say of the lines that moved them: the last line, taken out, leaves its tag behind."""
    there = {str(line.number): line.begun.hash for line in lines}
    return [
        Problem(
            what="removed or edited: a version was moved by a line that the record does not have",
            where=f"promotion record, line {number} (tag {LINE_TAG} of version {found.version})",
            expected=f"hash {mark}",
            found=f"hash {there[number]}" if number in there else "no such line",
        )
        for found in versions
        for number, mark in without_line(found.tags.get(LINE_TAG, ""), lines)
    ]


def _version_problems(line: Line, versions: "Mapping[str, ModelVersion]") -> list[Problem]:
    """Compare a line's versions with the registry. What is not there any more: an alias that was there is told."""
    placed = {"promoted": line.begun.to, f"{line.begun.target} before": line.begun.source}
    problems = []
    for role, one in placed.items():
        if one is None or not one.digest or (there := versions.get(one.version)) is None:
            continue
        if (found := there.tags.get(DIGEST_TAG, "")) != one.digest:
            what = f"version {one.version} is another checkpoint than the one that was {role}"
            problems.append(Problem(what=what, where=_where(line), expected=one.digest, found=found))
    return problems


def _decisions(
    client: "MlflowClient", record: Record, lines: Sequence[Line], versions: "Mapping[str, ModelVersion]"
) -> list[Problem]:
    """Compare each line with the decision that is kept for it in its version's run; those of one run read at once."""
    where = {
        line.number: versions[line.begun.to.version].run_id or record.run_id
        for line in lines
        if line.begun.to.version in versions
    }
    kept = {run: read_texts(client, run, DECISIONS) for run in dict.fromkeys(where.values())}
    problems = []
    for line in lines:
        if line.number in where:
            text = kept[where[line.number]].get(decision_name(line.begun.decision))
            problems += _decision_problems(text, line.begun, _where(line))
    return problems


def _decision_problems(text: str | None, one: Begun, where: str) -> list[Problem]:
    if text is None:
        what = "no decision of the gates is behind it: the line was forged, or the decision removed"
        return [Problem(what=what, where=where, expected=one.decision, found="none")]
    try:
        value = json.loads(text)
        found = canonical_digest(value)
    except ValueError:
        value, found = {}, "not JSON"
    if found != one.decision:
        what = "the decision of the gates was edited"
        return [Problem(what=what, where=where, expected=one.decision, found=found)]
    try:
        says = (value["name"], value["version"], value["target"], value["previous"])
        failed = [str(gate["name"]) for gate in value["gates"] if gate["passed"] is not True]
    except (KeyError, TypeError):
        return [Problem(what="what is behind it is no decision of the gates", where=where)]
    if says != (one.model, one.to.model_dump(mode="json"), one.target, one.previous):
        what = "the decision of the gates is about another promotion"
        return [Problem(what=what, where=where, found=f"version {says[1]}, {says[2]}")]
    if failed and not one.forced:
        what = "promoted although gates failed, and nobody forced it"
        return [Problem(what=what, where=where, found=", ".join(failed))]
    return []
