"""The gates of a promotion, each a row: what was found, what was asked, passed or not.

What is not known has not passed: a version without scores is not shown to be no worse than another.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from regrow.errors import InputError
from regrow.promotion.data import data_gates
from regrow.promotion.evidence import Carried, Stated, stated
from regrow.promotion.gate import Gate, told
from regrow.promotion.policy import Attestation, Rules
from regrow.promotion.record import Problem
from regrow.promotion.scored import score_gates
from regrow.registry.alterations import alterations
from regrow.registry.layout import checkpoint_in
from regrow.registry.names import LICENCE_TAG, LICENCES_TAG

if TYPE_CHECKING:
    from regrow.lineage import AuditResult, Failure, Verifier
    from regrow.promotion.facts import VersionFacts


# The gates that ask whether record and version are still what they were.
SOUND = ("record", "digest", "attestation", "signature", "registry")


def record_gate(name: str, problems: Sequence[Problem]) -> Gate:
    """The record that the promotion will be a line of is whole.

    Args:
        name: registered model.
        problems: what is wrong with its record.
    """
    found = told([one.said() for one in problems], f"regrow promote {name} --record") or "whole"
    return Gate(name="record", passed=not problems, observed=found, asked="every line there and unchanged")


def judge(facts: "VersionFacts", champion: "VersionFacts | None", rules: Rules) -> list[Gate]:
    """Ask every gate of a policy.

    Args:
        facts: the version.
        champion: the version that holds the champion alias, if any does.
        rules: the gates before the alias in question.
    """
    gates, carried = provenance(facts, rules.attestation)
    required = rules.attestation.required
    if rules.data_gate == "required":
        gates.extend(data_gates(facts, carried, required=required))
    own = stated(facts)
    if rules.licences is not None:
        gates.append(_licences(facts, rules.licences, carried, own))
    gates.extend(score_gates(facts, champion, rules, own))
    return gates


def provenance(facts: "VersionFacts", rules: Attestation) -> "tuple[list[Gate], Carried | None]":
    """The gates that ask whether the files are what was registered, which a rollback passes as well.

    Returns:
        The gates, and what the version's folder carries; None if it cannot be read.
    """
    asked = f"digest {facts.digest[:16]} of the tag" if facts.digest else "a tag with the digest"
    from regrow.lineage import SigningSettings

    verifier = SigningSettings.from_environment().verifier()
    try:
        with facts.model() as model:
            carried = Carried.of(checkpoint_in(model), verifier)
            # The audit has hashed everything; weights are not read twice.
            audit, found = carried.audit, carried.audit.digest
            around = alterations(model, found)
    except InputError as error:
        missing = Gate(name="digest", passed=False, observed=str(error), asked=asked)
        unknown = Gate(name="attestation", passed=False, observed="no files", asked=_asked(rules))
        return [missing, *([unknown] if rules.required else [])], None
    same = bool(facts.digest) and found == facts.digest
    observed = f"files have {found[:16]}" + (f"; around them {_first(around)}" if around else "")
    gates = [Gate(name="digest", passed=same and not around, observed=observed, asked=asked)]
    if rules.required or rules.signature == "required" or carried.attested:
        gates.extend(_attestation(audit, rules, has_key=verifier is not None))
    return [*gates, _registry(facts, audit, verifier)], carried


def _registry(facts: "VersionFacts", audit: "AuditResult", verifier: "Verifier | None") -> Gate:
    """What MLflow says of the version, held against the statements in its files and runs."""
    from regrow.audit.registry import against_statements
    from regrow.registry.server import speaking_through
    from regrow.registry.versions import find

    # Whether the files have the digest of the tag is a gate of its own.
    audit = audit.model_copy(update={"digest": facts.digest})
    with speaking_through(facts.client):
        version = find(f"{facts.name}/{facts.version}")
        found = [check(audit) for check in against_statements(version, verifier)]
    failures = [one for part in found for one in part.failures]
    said = [f"{one.what}: {one.where}: expected {one.expected}, found {one.found}" for one in failures]
    observed = told(said, f"regrow audit models:/{facts.name}/{facts.version}")
    unknown = "; ".join(note for part in found for note in part.not_checked)
    return Gate(
        name="registry",
        passed=not failures,
        observed=observed or f"as stated{f'; not known: {unknown}' if unknown else ''}",
        asked="nothing in MLflow contradicts the statements",
    )


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


def _licences(facts: "VersionFacts", allowed: Sequence[str], carried: Carried | None, own: Stated) -> Gate:
    from regrow.registry.licences import terms_of

    found = facts.licences
    lower = {one.lower() for one in allowed}
    wrong = [
        f"{what}: {licence or 'unknown'}"
        for what, licence in found.items()
        if licence is None or not {licence.lower(), terms_of(licence).lower()} & lower
    ]
    if (other := _other_licences(facts, carried, own)) is not None:
        wrong.append(other)
    said = "; ".join(wrong) if wrong else ", ".join(sorted({str(one) for one in found.values()}))
    return Gate(
        name="licence",
        passed=bool(found) and not wrong,
        observed=said or "no licence is recorded",
        asked=f"only: {', '.join(allowed)}",
    )


def _other_licences(facts: "VersionFacts", carried: Carried | None, own: Stated) -> str | None:
    """Say what contradicts the licences that the version's tag names."""
    from regrow.registry.licences import LicenceChain

    tag = facts.tags.get(LICENCES_TAG)
    chain = LicenceChain.from_tag(tag)
    if not chain.links:
        return None
    if (told := own.licences()) is not None:
        return None if tag in told else f"tag {LICENCES_TAG} is not what it was registered with"
    if (strictest := facts.tags.get(LICENCE_TAG)) != chain.strictest:
        return f"tag {LICENCE_TAG} says {strictest or 'nothing'}, {LICENCES_TAG} {chain.strictest}"
    if own.registered or carried is None:
        # Whoever registers may know better than the statements; the registration says what was meant.
        return None
    there = {(one.kind, one.name): one.licence for one in chain.links}
    for one in carried.licences.links if carried.attested else ():
        if one.licence and there.get((one.kind, one.name), one.licence) != one.licence:
            return f"{one.kind} {one.name}: {one.licence} by the statements"
    return None
