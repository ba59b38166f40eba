"""Making a statement."""

import math
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

from regrow.errors import InputError
from regrow.lineage.environment import builder
from regrow.lineage.places import without_place
from regrow.lineage.statement import (
    BuildDefinition,
    Metadata,
    Predicate,
    Resource,
    RunDetails,
    Statement,
)


def attest(
    stage: str,
    subjects: Sequence[Resource],
    materials: Sequence[Resource],
    *,
    parameters: Mapping[str, Any],
    details: Mapping[str, Any] | None = None,
    started: datetime | None = None,
) -> Statement:
    """State what a stage made from what.

    Args:
        stage: name of the stage, such as prune.
        subjects: the result; for a folder then its files (`describe_checkpoint`, `describe_folder`).
        materials: what it was made from (`material`, `describe_value`, or a source with its URI).
        parameters: the specification; pydantic models, paths and times in it are written as JSON, and of paths on
            this machine only the names (`regrow.lineage.places`).
        details: seeds, engine, counts; likewise.
        started: when the stage began; now if not given.

    Raises:
        InputError: no subject, or a value that JSON cannot hold.
    """
    if not subjects:
        raise InputError(f"{stage}: a statement needs a subject")
    now = datetime.now(UTC)
    return Statement(
        subjects=list(subjects),
        predicate=Predicate(
            build_definition=BuildDefinition(
                build_type=f"https://regrow.dev/stage/{stage}/v1",
                external_parameters=_plain(parameters),
                internal_parameters=_plain(details or {}),
                resolved_dependencies=[_placeless(one) for one in materials],
            ),
            run_details=RunDetails(
                builder=builder(),
                metadata=Metadata(
                    invocation_id=str(uuid.uuid4()),
                    started_on=_time(started or now),
                    finished_on=_time(now),
                ),
            ),
        ),
    )


def _placeless(one: Resource) -> Resource:
    return one.model_copy(update={"uri": without_place(one.uri)}) if one.uri else one


def _time(moment: datetime) -> str:
    if moment.tzinfo is None:
        moment = moment.astimezone()
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    """Turn a value into what JSON holds."""
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(one) for one in value), key=str)
    if isinstance(value, PurePath):
        return without_place(value.as_posix())
    if isinstance(value, datetime):
        return _time(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"statement: {value} is a value that JSON cannot hold")
    if isinstance(value, str):
        return without_place(value)
    if value is None or isinstance(value, int | float):
        return value
    if hasattr(value, "item"):
        return _plain(value.item())  # a NumPy or torch number
    raise InputError(f"statement: a {type(value).__name__} is a value that JSON cannot hold")
