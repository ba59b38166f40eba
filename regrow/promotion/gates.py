"""The gates of a promotion, each a row: what was found, what was asked, passed or not.

What is not known has not passed: a version without scores is not shown to be no worse than another.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from regrow.checkpoint import PROVENANCE, digest_of
from regrow.errors import InputError
from regrow.promotion.margin import lower_bound
from regrow.promotion.policy import Attestation, NonInferiority, Rules
from regrow.promotion.record import Problem
from regrow.registry.alterations import alterations
from regrow.registry.layout import checkpoint_in
from regrow.registry.names import SCORES_TAG

if TYPE_CHECKING:
    from pathlib import Path

    from regrow.evaluate.scores import Scores, TaskScore
    from regrow.lineage import AuditResult, Failure, Verifier
    from regrow.promotion.facts import VersionFacts


class Gate(BaseModel):
    """The outcome of one gate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    passed: bool
    observed: str = Field(description="what was found")
    asked: str = Field(description="what the policy asks for")


def record_gate(problems: Sequence[Problem]) -> Gate:
    """The record that the promotion will be a line of is whole."""
    found = "whole" if not problems else "; ".join(one.said() for one in problems[:3])
    return Gate(name="record", passed=not problems, observed=found, asked="every line there and unchanged")


def judge(facts: "VersionFacts", champion: "VersionFacts | None", rules: Rules) -> list[Gate]:
    """Ask every gate of a policy.

    Args:
        facts: the version.
        champion: the version that holds the champion alias, if any does.
        rules: the gates before the alias in question.
    """
    gates = provenance(facts, rules.attestation)
    if rules.data_gate == "required":
        gates.extend(_data(facts))
    if rules.licences is not None:
        gates.append(_licences(facts, rules.licences))
    gates.extend(_scores(facts, champion, rules))
    return gates


def provenance(facts: "VersionFacts", rules: Attestation) -> list[Gate]:
    """The gates that ask whether the files are what was registered, which a rollback passes as well."""
    asked = f"digest {facts.digest[:16]} of the tag" if facts.digest else "a tag with the digest"
    from regrow.lineage import SigningSettings

    verifier = SigningSettings.from_environment().verifier()
    try:
        with facts.model() as model:
            folder = checkpoint_in(model)
            audit = _audit(folder, rules, verifier)
            # The audit has hashed everything; weights are not read twice.
            found = audit.digest if audit else digest_of(folder)
            around = alterations(model, found)
    except InputError as error:
        missing = Gate(name="digest", passed=False, observed=str(error), asked=asked)
        unknown = Gate(name="attestation", passed=False, observed="no files", asked=_asked(rules))
        return [missing, *([unknown] if rules.required else [])]
    same = bool(facts.digest) and found == facts.digest
    observed = f"files have {found[:16]}" + (f"; around them {_first(around)}" if around else "")
    digest = Gate(name="digest", passed=same and not around, observed=observed, asked=asked)
    return [digest, *(_attestation(audit, rules, has_key=verifier is not None) if audit else [])]


def _audit(folder: "Path", rules: Attestation, verifier: "Verifier | None") -> "AuditResult | None":
    """Audit the folder where its attestation is asked for, or is there."""
    from regrow.lineage import audit_folder

    if rules.required or rules.signature == "required" or (folder / PROVENANCE).is_dir():
        return audit_folder(folder, verifier=verifier)
    return None


def _asked(rules: Attestation) -> str:
    return "an attestation chain that verifies" if rules.required else "no attestation that is wrong"


def _attestation(audit: "AuditResult", rules: Attestation, *, has_key: bool) -> Iterator[Gate]:
    links = len(audit.chain)
    verify = f"{links} statements verify" if links else "none"
    observed = _first(audit.failures) if audit.failures else verify
    good = not audit.failures and (links > 0 or not rules.required)
    yield Gate(name="attestation", passed=good, observed=observed, asked=_asked(rules))
    asked, allowed = {
        "required": ("valid", ("valid",)),
        "with_key": (
            "valid, where a key to check with is given",
            ("valid",) if has_key else ("valid", "unsigned", "unchecked"),
        ),
        "ignored": ("not invalid", ("valid", "unsigned", "unchecked")),
    }[rules.signature]
    observed = "not checked: no key given" if audit.signature == "unchecked" else audit.signature
    yield Gate(name="signature", passed=audit.signature in allowed, observed=observed, asked=asked)


def _first(failures: "Sequence[Failure]") -> str:
    more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    return f"{failures[0].what}: {failures[0].where}{more}"


def _data(facts: "VersionFacts") -> Iterator[Gate]:
    sets = facts.data()
    if not sets:
        yield Gate(
            name="data gate",
            passed=False,
            observed="the version names no data",
            asked="a verdict on every set that it was tuned on",
        )
    for dataset, digest in sorted(sets.items()):
        found = facts.data_gate(dataset)
        if found is None:
            observed = "no verdict in the version's MLflow run"
        elif found.digest != digest:
            observed = f"a verdict on other data, {found.digest[:16]}"
        elif not found.passed:
            observed = f"not passed: {', '.join(one.name for one in found.failed())}"
        else:
            observed = f"passed, {found.records} records"
        good = found is not None and found.digest == digest and found.passed
        asked = f"passed on {digest[:16]}"
        yield Gate(name=f"data gate: {dataset}", passed=good, observed=observed, asked=asked)


def _licences(facts: "VersionFacts", allowed: Sequence[str]) -> Gate:
    from regrow.registry.licences import terms_of

    found = facts.licences
    lower = {one.lower() for one in allowed}
    wrong = [
        f"{what}: {licence or 'unknown'}"
        for what, licence in found.items()
        if licence is None or not {licence.lower(), terms_of(licence).lower()} & lower
    ]
    said = "; ".join(wrong) if wrong else ", ".join(sorted({str(one) for one in found.values()}))
    return Gate(
        name="licence",
        passed=bool(found) and not wrong,
        observed=said or "no licence is recorded",
        asked=f"only: {', '.join(allowed)}",
    )


def _scores(facts: "VersionFacts", champion: "VersionFacts | None", rules: Rules) -> Iterator[Gate]:
    if not rules.floors and rules.non_inferiority is None:
        return
    scores = facts.scores()
    if scores is not None and (stated := facts.tags.get(SCORES_TAG)) is not None:
        from regrow.lineage.values import scores_digest

        found = scores_digest(scores)
        asked = f"digest {stated[:16]} of the tag"
        yield Gate(
            name="scores", passed=found == stated, observed=f"the run's have {found[:16]}", asked=asked
        )
    for task, floor in rules.floors.items():
        one = scores.scores.get(task) if scores is not None else None
        yield Gate(
            name=f"floor: {task}",
            passed=one is not None and one.value >= floor,
            observed="not evaluated" if one is None else f"{one.value:.4f}",
            asked=f"at least {floor:.4f}",
        )
    if rules.non_inferiority is not None:
        yield from _not_worse(facts, scores, champion, rules.non_inferiority)


def _not_worse(
    facts: "VersionFacts", scores: "Scores | None", champion: "VersionFacts | None", rule: NonInferiority
) -> Iterator[Gate]:
    from regrow.evaluate.scores import check_alike, score_pairs

    use_champion = champion is not None and champion.version != facts.version and rule.against != "base"
    margin = rule.margin if use_champion or rule.against == "champion" else rule.base_margin
    asked = f"loss of the mean below {100 * margin:g} points, {100 * rule.confidence:g} % one-sided"
    if rule.against == "champion" and not use_champion:
        # The first champion has nobody to be worse than.
        yield Gate(name="not worse", passed=True, observed="there is no champion yet", asked=asked)
        return
    if use_champion and champion is not None:
        theirs, who = champion.scores(), f"champion (version {champion.version})"
    else:
        theirs, who = facts.base_scores(), "base"
    name = f"not worse than {who}"
    if scores is None or theirs is None:
        lacking = f"version {facts.version}" if scores is None else who
        yield Gate(
            name=name, passed=False, observed=f"{lacking} has no scores in its MLflow run", asked=asked
        )
        return
    try:
        if not scores.scores:
            raise InputError("no task was evaluated")
        check_alike(scores, theirs)
    except InputError as error:
        yield Gate(name=name, passed=False, observed=f"cannot be compared: {error}", asked=asked)
        return
    pairs = score_pairs(scores, theirs)
    yield _gate(name, pairs, margin, rule.confidence, asked)
    if rule.task_margin is not None:
        for task, pair in zip(theirs.scores, pairs, strict=True):
            asked = f"loss below {100 * rule.task_margin:g} points, {100 * rule.confidence:g} % one-sided"
            yield _gate(f"{name}: {task}", [pair], rule.task_margin, rule.confidence, asked)


def _gate(
    name: str, pairs: "Sequence[tuple[TaskScore, TaskScore]]", margin: float, confidence: float, asked: str
) -> Gate:
    bound = lower_bound(pairs, confidence)
    ours, theirs = (sum(pair[i].value for pair in pairs) / len(pairs) for i in (0, 1))
    found = f"{ours:.4f} against {theirs:.4f}"
    if bound is None:
        found += ", no scores per item and no standard errors"
    else:
        found += f", difference {100 * (ours - theirs):+.2f} points, at least {100 * bound:+.2f}"
    return Gate(name=name, passed=bound is not None and bound > -margin, observed=found, asked=asked)
