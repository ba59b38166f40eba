"""Scores: are they those that were measured, and does the version lose too much against what it is to replace?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regrow.errors import InputError
from regrow.promotion.evidence import Stated, stated
from regrow.promotion.gate import Gate
from regrow.promotion.margin import lower_bound
from regrow.promotion.policy import NonInferiority, Rules
from regrow.registry.names import SCORES_TAG

if TYPE_CHECKING:
    from regrow.evaluate.scores import Scores, TaskScore
    from regrow.promotion.facts import VersionFacts


def score_gates(
    facts: "VersionFacts", champion: "VersionFacts | None", rules: Rules, own: Stated
) -> Iterator[Gate]:
    """Ask what the version can do, and whether all scores that count are those that were measured.

    Args:
        facts: the version.
        champion: the version that holds the champion alias, if any does.
        rules: the gates before the alias in question.
        own: what is stated in the version's runs.
    """
    if not rules.floors and rules.non_inferiority is None:
        return
    required = rules.attestation.required
    scores = facts.scores()
    if scores is not None:
        yield _measured("scores", scores, own, required=required)
    for task, floor in rules.floors.items():
        one = scores.scores.get(task) if scores is not None else None
        yield Gate(
            name=f"floor: {task}",
            passed=one is not None and one.value >= floor,
            observed="not evaluated" if one is None else f"{one.value:.4f}",
            asked=f"at least {floor:.4f}",
        )
    if rules.non_inferiority is not None:
        reference = _reference(facts, champion, rules.non_inferiority)
        if reference is not None and (theirs := reference.scores) is not None:
            yield _measured(f"scores of {reference.who}", theirs, reference.stated or own, required=required)
        yield from _not_worse(facts, scores, reference, rules.non_inferiority)


def _measured(name: str, scores: "Scores", stated: Stated, *, required: bool) -> Gate:
    """These are the scores that were measured: those of the version's tag, and of a statement about them.

    The unpruned model has no tag of its own; its scores are known by the statement alone.
    """
    from regrow.lineage.values import scores_digest

    found, facts = scores_digest(scores), stated.facts
    tag = facts.tags.get(SCORES_TAG, "") if scores.digest == facts.digest else None
    known = stated.bears_out(scores, found)
    observed = f"the run's have {found[:16]}"
    if tag == "":
        observed += f", and version {facts.version} was registered without (no tag {SCORES_TAG})"
    elif known is False:
        observed += ", which is not what was stated"
    elif known is None:
        observed += ", not attested"
    asked = f"digest {tag[:16]} of the tag" if tag else "the scores that were registered"
    if tag is None:
        asked = "the scores that were measured"
    attested = known if known is not None else not required
    return Gate(name=name, passed=tag in (None, found) and attested, observed=observed, asked=asked)


@dataclass(frozen=True)
class _Reference:
    """What the version is compared with: the champion, or the base."""

    who: str
    scores: "Scores | None"
    stated: Stated | None  # None: in the version's own runs


def _reference(
    facts: "VersionFacts", champion: "VersionFacts | None", rule: NonInferiority
) -> _Reference | None:
    """Return what the version is compared with; None for the first champion under a rule that asks for no other."""
    if champion is not None and champion.version != facts.version and rule.against != "base":
        return _Reference(f"champion (version {champion.version})", champion.scores(), stated(champion))
    return None if rule.against == "champion" else _Reference("base", facts.base_scores(), None)


def _not_worse(
    facts: "VersionFacts", scores: "Scores | None", reference: _Reference | None, rule: NonInferiority
) -> Iterator[Gate]:
    from regrow.evaluate.scores import check_alike, score_pairs

    margin = rule.base_margin if reference is not None and reference.stated is None else rule.margin
    asked = f"loss of the mean below {100 * margin:g} points, {100 * rule.confidence:g} % one-sided"
    if reference is None:
        # The first champion has nobody to be worse than.
        yield Gate(name="not worse", passed=True, observed="there is no champion yet", asked=asked)
        return
    theirs, who = reference.scores, reference.who
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
