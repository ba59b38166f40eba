"""Moving stages and aliases to where a line of the record has them, and finishing what another left."""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from regrow.errors import InputError
from regrow.promotion.agreement import disagreements, zenml_of
from regrow.promotion.record import (
    LINE_TAG,
    End,
    Line,
    PromotionConflictError,
    Record,
    staged,
    standing,
    utc_now,
    without_line,
)
from regrow.promotion.stages import STAGE_OF, StageMover
from regrow.promotion.who import alive, identity
from regrow.registry.names import first_line
from regrow.registry.server import again, aliases_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)


def _nothing() -> None:
    pass


# What a tag of MLflow has room for.
_MARKS = 50


def move(
    record: Record,
    line: Line,
    stages: StageMover | None,
    *,
    forward: bool,
    before_each: Callable[[], None] = _nothing,
) -> None:
    """Put stages and aliases where they are after, or were before, a line. To do it again changes nothing.

    Args:
        record: the record that the line is of.
        line: what is to be moved.
        stages: the model's versions in ZenML.
        forward: to where things are after the line; else to where they were before it.
        before_each: called before each write.
    """
    client, one = record.client, line.begun
    if stages is not None and one.stages is not None:
        moves = one.stages.after if forward else one.stages.before
        # Who takes a stage goes first: its holder makes room in the same write, so that the stage is never empty.
        for key, stage in sorted(moves.items(), key=lambda pair: pair[1] not in STAGE_OF.values()):
            if stage is not None and _stage_of(stages, key) != stage:
                before_each()
                stages.move(key, stage)
    _point(client, one.model, one.aliases.after if forward else one.aliases.before, before_each)
    if forward:
        before_each()
        marks = "; ".join(_marks(record, line))
        again(lambda: client.set_model_version_tag(one.model, one.to.version, LINE_TAG, marks))


def _marks(record: Record, line: Line) -> list[str]:
    """Return what the version is to say of lines: this one; and those that are gone, whose only trace this is."""
    one = line.begun
    found = again(lambda: record.client.get_model_version(one.model, one.to.version))
    gone = without_line(said, record.lines()) if (said := found.tags.get(LINE_TAG)) else []
    return [f"{one.number} {one.hash}", *(" ".join(mark) for mark in gone[:_MARKS])]


def settle(client: "MlflowClient", name: str, lines: Sequence[Line], stages: StageMover | None) -> None:
    """Put aliases and stages where the record has them."""
    should = standing(lines)
    if stages is not None:
        for alias, key in zenml_of(client, name, staged(lines)).items():
            stage = STAGE_OF[alias]
            held = stages.holder(stage)
            if key is not None and held != key:
                stages.move(key, stage)
            elif held is not None and held != key:
                stages.move(held, "archived")
    _point(client, name, should)


def recover(
    client: "MlflowClient", record: Record, *, stages: StageMover | None = None, who: str | None = None
) -> list[str]:
    """Complete or undo a promotion that stopped halfway, and say so.

    Raises:
        PromotionConflictError: its promoter is alive.
        InputError: it moves stages in ZenML, and ZenML is not at hand.
    """
    lines = record.lines()
    if not lines or lines[-1].end is not None:
        return []
    line = lines[-1]
    if wait := alive(line.begun):
        raise PromotionConflictError(
            f"{record.model}: {line.said()} is under way; {wait} and promote again if it is still wanted"
        )
    if line.begun.stages is not None and stages is None:
        raise InputError(
            f"{record.model}: {line.said()} stopped halfway and moves stages in ZenML; install regrow[pipeline] and "
            "promote with the ZenML it was made with"
        )
    note = _finish(client, record, line, stages, who or identity())
    log.warning("%s", note)
    return [note]


def ended(line: Line, state: Literal["done", "undone"], who: str, note: str = "") -> End:
    """Return the second half of a line."""
    return End(
        number=line.number,
        previous=line.begun.hash,
        state=state,
        who=who,
        when=utc_now(),
        note=note[:300],
    )


def _finish(client: "MlflowClient", record: Record, line: Line, stages: StageMover | None, who: str) -> str:
    """Complete a line that has no end, or undo it; say which."""
    name, why = record.model, ""
    if not _moved_any(client, line, stages):
        record.end(ended(line, "undone", who, "its promoter died before anything was moved"))
    else:
        try:
            move(record, line, stages, forward=True)
            record.end(ended(line, "done", who, "completed after its promoter died"))
        except Exception as error:
            why = f", because it cannot be completed: {first_line(error)}"
            move(record, line, stages, forward=False)
            record.end(ended(line, "undone", who, f"undone after its promoter died{why}"))
    # Two may have come to this line at once: what stands in the record counts.
    lines = record.lines()
    if disagreements(client, name, lines, stages):
        settle(client, name, lines, stages)
    state = next(one.state for one in lines if one.number == line.number)
    said = {"done": "it is completed", "undone": f"it is undone{why}", "begun": "it still is"}[state]
    return f"{name}: {line.said()} had stopped halfway; {said}"


def _moved_any(client: "MlflowClient", line: Line, stages: StageMover | None) -> bool:
    moves, now = line.begun.aliases, aliases_of(client, line.begun.model)
    if any(now.get(alias) != version for alias, version in moves.before.items()):
        return True
    if stages is None or line.begun.stages is None:
        return False
    return any(_stage_of(stages, key) != stage for key, stage in line.begun.stages.before.items())


def _stage_of(stages: StageMover, key: str) -> str | None:
    try:
        return stages.stage(key)
    except InputError:
        return None


def _point(
    client: "MlflowClient",
    name: str,
    aliases: "Mapping[str, str | None] | Mapping[Literal['staging', 'champion'], str | None]",
    before_each: Callable[[], None] = _nothing,
) -> None:
    now = aliases_of(client, name)
    for alias, version in aliases.items():
        if now.get(alias) != version:
            before_each()
            _set_alias(client, name, alias, version)


def _set_alias(client: "MlflowClient", name: str, alias: str, version: str | None) -> None:
    if version is None:
        again(lambda: client.delete_registered_model_alias(name, alias))
    else:
        again(lambda: client.set_registered_model_alias(name, alias, version))
