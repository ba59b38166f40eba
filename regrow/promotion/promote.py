"""Promotion: the gates, the record, and the two registries that follow the record.

The order of writes is

1. the decision of the gates, an artifact of the version's MLflow run;
2. the line in the record (begun), which only one promoter can take;
3. the stages in ZenML;
4. the aliases in MLflow, and the tag of the version that names the line;
5. the end of the line (done), and `promotion.json` in the run.

Up to 2 nothing has happened. After 2 the line says all that is to be moved and where it was before, so whoever
finds it without an end completes it, or undoes it if nothing had been moved or it cannot be completed.
A promoter that may be alive is left alone for its lease; on its own host its process is looked for as well.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from regrow.errors import InputError, RegrowError
from regrow.lineage.signing import SigningSettings
from regrow.processes import AT_WORK, this_process
from regrow.promotion import gates as gate
from regrow.promotion.agreement import disagreements, record_problems
from regrow.promotion.database import on_database
from regrow.promotion.facts import VersionFacts
from regrow.promotion.moving import ended, move, recover, settle
from regrow.promotion.outcome import Decision, Outcome
from regrow.promotion.policy import Policy
from regrow.promotion.record import (
    TARGETS,
    Begun,
    End,
    Line,
    Moves,
    Problem,
    PromotionConflictError,
    Record,
    Target,
    champions,
    sealed,
    utc_now,
)
from regrow.promotion.signing import sign
from regrow.promotion.stages import STAGE_OF, StageMover
from regrow.promotion.statement import state
from regrow.promotion.who import identity
from regrow.registry.names import first_line
from regrow.registry.server import aliases_of

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

# A promotion writes for a second or two. A promoter of another host that is silent for longer is taken for dead;
# one that finds itself slower than half of it stops of its own accord.
LEASE = 120.0
# With many tasks only the names of gates fit into a line; the decision has them whole.
_LONG_LINE = 5000


def promote(
    client: "MlflowClient",
    name: str,
    version: str,
    target: Target,
    *,
    policy: Policy | None = None,
    stages: StageMover | None = None,
    reason: str | None = None,
    who: str | None = None,
) -> Outcome:
    """Promote a version, if the gates allow it.

    Args:
        client: of the MLflow registry.
        name: registered model.
        version: its number, or `@alias`.
        target: the alias to give it.
        policy: the gates; the default ones if not given.
        stages: the model's versions in ZenML; None if ZenML does not know the model.
        reason: why gates that fail are passed over; None: they are not.
        who: who promotes; the user of the MLflow server or of this machine if not given.

    Raises:
        InputError: there is no such version, or alias and record do not agree.
        PromotionConflictError: another promotion is under way or came first.
        RegrowError: something could not be moved.
    """
    decision = decide(client, name, version, target, policy=policy, stages=stages, who=who)
    return carry_out(client, decision, stages=stages, reason=reason)


def rollback(
    client: "MlflowClient",
    name: str,
    target: Target = "champion",
    *,
    policy: Policy | None = None,
    stages: StageMover | None = None,
    reason: str | None = None,
    who: str | None = None,
) -> Outcome:
    """Promote the holder of the alias before the present one; only the gates of provenance are asked.

    Raises:
        InputError: the record knows of none, or as for `promote`.
        PromotionConflictError: as for `promote`.
        RegrowError: as for `promote`.
    """
    decision = decide(client, name, None, target, policy=policy, stages=stages, who=who)
    return carry_out(client, decision, stages=stages, reason=reason)


def decide(
    client: "MlflowClient",
    name: str,
    version: str | None,
    target: Target,
    *,
    policy: Policy | None = None,
    stages: StageMover | None = None,
    who: str | None = None,
) -> Decision:
    """Ask the gates. What an earlier promotion has left half-done is completed or undone first.

    Args:
        client: of the MLflow registry.
        name: registered model.
        version: its number or `@alias`; None for a rollback.
        target: the alias to give it.
        policy: the gates; the default ones if not given.
        stages: the model's versions in ZenML.
        who: who promotes.

    Raises:
        InputError: there is no such version, or alias and record do not agree.
        PromotionConflictError: another promotion is under way.
    """
    who = who or identity()
    with on_database(client):
        aliases_of(client, name)  # tells a model that does not exist
        record = Record.find(client, name)
        notes = recover(client, record, stages=stages, who=who) if record else []
        params = record.params() if record else {}
        lines = Record.lines_in(params)
        if lines and lines[-1].end is None:
            raise PromotionConflictError(_came_first(name, lines[-1]))
        number, previous = Record.next_in(params)
        wanted = version or _before(name, lines, target)
        facts = VersionFacts.of(client, name, wanted)
        if record:
            _must_agree(client, record, lines, stages)
        now = aliases_of(client, name)
        holder = VersionFacts.of(client, name, now[target]) if target in now else None
        _may_move(facts, holder, target, now, stages)
        rules = (policy or Policy()).rules(target)
        gates = [gate.record_gate(name, _problems(client, name, record, params))]
        if version is None:
            gates += gate.provenance(facts, rules.attestation)[0]
        else:
            champion = VersionFacts.of(client, name, now["champion"]) if "champion" in now else None
            gates += gate.judge(facts, champion, rules)
        return Decision(
            kind="promotion" if version else "rollback",
            name=name,
            version=facts.placed,
            target=target,
            holder=holder.placed if holder else None,
            gates=tuple(gates),
            rules=rules,
            line=number,
            previous=previous,
            who=who,
            when=utc_now(),
            notes=tuple(notes),
        )


def carry_out(
    client: "MlflowClient", decision: Decision, *, stages: StageMover | None = None, reason: str | None = None
) -> Outcome:
    """Do what the gates decided; the outcome is kept in the version's MLflow run either way.

    Args:
        client: of the MLflow registry.
        decision: of `decide`; void if another promotion came after it.
        stages: the model's versions in ZenML.
        reason: why gates that failed are passed over.

    Raises:
        InputError: a reason that says nothing.
        PromotionConflictError: another promotion came first.
        RegrowError: something could not be moved.
    """
    if reason is not None and not reason.strip():
        raise InputError("--reason: empty; say why the gates are passed over, which the record keeps")
    forced = not decision.passed and reason is not None
    notes = decision.notes
    if reason is not None and not forced:
        notes += ("every gate passed: --force was not needed, and its reason is not recorded",)
    reason = reason if forced else None
    outcome = Outcome(status="refused", name=decision.name, decision=decision, notes=notes)
    with on_database(client):
        facts = VersionFacts.of(client, decision.name, decision.version.version)
        if facts.placed != decision.version:
            raise PromotionConflictError(
                f"{decision.name} version {facts.version}: its digest was {decision.version.digest[:16]} when the "
                f"gates were asked, and is {facts.digest[:16]} now; look at what was changed, and promote again"
            )
        stays = decision.holder == decision.version and decision.line > 1
        if stays and decision.sound:
            return outcome.model_copy(update={"status": "unchanged"})
        _keep(client, facts, decision.path, decision.model_dump_json(indent=2))
        if stays:  # there is nothing to move, by force neither
            note = f"version {decision.version.version} is {decision.target} already, and is not what it was"
            outcome = outcome.model_copy(update={"notes": (*notes, note)})
        elif decision.passed or forced:
            record = Record.open(client, decision.name)
            line = sealed(_line(client, decision, facts, stages, reason))
            end = _run(client, record, line, stages)
            if facts.digest:
                state(facts, decision, line)
            done = {
                "status": "promoted",
                "forced": forced,
                "reason": reason,
                "record": end.number,
                "hash": end.hash,
            }
            outcome = outcome.model_copy(update=done)
        _keep(client, facts, "promotion.json", outcome.model_dump_json(indent=2))
        return outcome


def repair(client: "MlflowClient", name: str, *, stages: StageMover | None = None) -> Outcome:
    """Complete or undo what was left half-done, and put alias and stage back to what the record says.

    Raises:
        InputError: nothing of this name was ever promoted.
        PromotionConflictError: a promotion is under way.
    """
    with on_database(client):
        record = Record.find(client, name)
        if record is None:
            raise InputError(f"{name}: there is no promotion record to go by")
        notes = recover(client, record, stages=stages)
        lines = record.lines()
        notes += [f"put back: {one.said()}" for one in disagreements(client, name, lines, stages)]
        settle(client, name, lines, stages)
        return Outcome(status="repaired", name=name, notes=tuple(notes))


def _before(name: str, lines: Sequence[Line], target: Target) -> str:
    known = champions(lines, target)
    if len(known) < 2:
        raise InputError(f"{name}: the promotion record knows no {target} before the present one")
    return known[-2].version


def _problems(
    client: "MlflowClient", name: str, record: Record | None, params: Mapping[str, str]
) -> list[Problem]:
    """Return what is wrong with the record, and not only looks so because another promotion goes on.

    Raises:
        PromotionConflictError: one does.
    """
    found = record_problems(client, name, record, params, SigningSettings.from_environment().verifier())
    if (
        found
        and (now := record or Record.find(client, name)) is not None
        and (later := now.params()) != params
    ):
        raise PromotionConflictError(_came_first(name, Record.lines_in(later)[-1]))
    return found


def _came_first(name: str, line: Line) -> str:
    return f"{name}: another came first: {line.said()}. Look at it, and promote again if it is still wanted"


def _must_agree(
    client: "MlflowClient", record: Record, lines: Sequence[Line], stages: StageMover | None
) -> None:
    if not (found := disagreements(client, record.model, lines, stages)):
        return
    now = record.lines()
    if list(lines) != now:
        raise PromotionConflictError(_came_first(record.model, now[-1]))
    raise InputError(
        f"{'; '.join(one.said() for one in found)}. Somebody moved it by hand: put it back with "
        f"`regrow promote {record.model} --repair`, and then promote what is wanted"
    )


def _may_move(
    facts: VersionFacts,
    holder: VersionFacts | None,
    target: Target,
    now: dict[str, str],
    stages: StageMover | None,
) -> None:
    if target == "staging" and now.get("champion") == facts.version:
        raise InputError(f"{facts.name} version {facts.version} is the champion; promote another one first")
    for one in (facts, holder):
        if one is not None and one.zenml is not None and stages is None:
            raise InputError(
                f"{one.name} version {one.version} is version {one.zenml} of the model in ZenML, whose stage moves "
                "with the alias; install regrow[pipeline] and promote with the ZenML it was made with"
            )


def _line(
    client: "MlflowClient",
    decision: Decision,
    facts: VersionFacts,
    stages: StageMover | None,
    reason: str | None,
) -> Begun:
    """Return the line that a decision becomes: everything that is to be moved, and where it is now."""
    now, to = aliases_of(client, decision.name), decision.version
    before = {alias: now.get(alias) for alias in TARGETS}
    # A version has one stage in ZenML; so of these aliases it has one as well.
    after = {alias: None if one == to.version else one for alias, one in before.items()}
    part = Begun(
        number=decision.line,
        previous=decision.previous,
        kind=decision.kind,
        model=decision.name,
        target=decision.target,
        source=decision.holder,
        to=to,
        who=decision.who,
        when=utc_now(),
        gates=decision.short_gates(),
        decision=decision.digest,
        forced=reason is not None,
        reason=reason,
        aliases=Moves(before=before, after=after | {decision.target: to.version}),
        stages=_stages(facts, decision.target, stages),
        process=this_process(),
        lease=LEASE,
    )
    if len(part.text()) > _LONG_LINE:
        part = part.model_copy(update={"gates": decision.short_gates(cut=0)})
    return part


def _stages(facts: VersionFacts, target: Target, stages: StageMover | None) -> Moves | None:
    """Return the stages of the versions in ZenML that take part, before and after."""
    if stages is None:
        return None
    key, held = facts.zenml, stages.holder(STAGE_OF[target])
    before: dict[str, str | None] = {one: stages.stage(one) for one in (key, held) if one is not None}
    return Moves(before=before, after={one: STAGE_OF[target] if one == key else "archived" for one in before})


def _run(client: "MlflowClient", record: Record, begun: Begun, stages: StageMover | None) -> End:
    """Take the line, move, and end the line.

    Raises:
        PromotionConflictError: another promotion came first.
        RegrowError: something could not be moved.
    """
    sign(client, record, begun)
    start = time.monotonic()
    AT_WORK.add(begun.hash)
    try:
        return _carry(client, record, Line(begun=record.begin(begun)), stages, start)
    finally:
        AT_WORK.discard(begun.hash)


def _carry(
    client: "MlflowClient", record: Record, line: Line, stages: StageMover | None, start: float
) -> End:

    def in_time() -> None:
        if time.monotonic() - start > LEASE / 2:
            raise RegrowError("it took longer than its lease")

    try:
        move(record, line, stages, forward=True, before_each=in_time)
        in_time()
        if not record.end(ended(line, "done", line.begun.who)):
            raise RegrowError("somebody took this process for dead and undid it")
    except BaseException as error:
        became = _put_back(client, record, line, stages, error)
        if not isinstance(error, Exception):
            raise
        raise RegrowError(f"{record.model}: {line.said()} failed: {first_line(error)}; {became}") from error
    return next(one.end for one in record.lines() if one.number == line.number and one.end)


def _put_back(
    client: "MlflowClient", record: Record, line: Line, stages: StageMover | None, error: BaseException
) -> str:
    """Undo a line that could not be carried out; say what became of it."""
    try:
        lines = record.lines()
        if all(one.end is None for one in lines if one.number == line.number):
            move(record, line, stages, forward=False)
            record.end(ended(line, "undone", line.begun.who, f"put back: {first_line(error)}"))
        else:
            settle(client, record.model, lines, stages)
        state = next(one.state for one in record.lines() if one.number == line.number)
    except Exception as second:
        log.warning("%s: putting back failed: %s", record.model, first_line(second))
        return "it is half-done, and the next promotion or --repair completes or undoes it"
    return "it is done all the same" if state == "done" else "everything was put back"


def _keep(client: "MlflowClient", facts: VersionFacts, path: str, text: str) -> None:
    """Keep an artifact in the version's MLflow run; in the record's if the version has none."""
    client.log_text(facts.run_id or Record.open(client, facts.name).run_id, text, path)
