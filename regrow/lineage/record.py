"""What a stage does when its result is there: state what it made from what, beside the result."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from regrow.checkpoint import Checkpoint
from regrow.lineage.describe import describe_checkpoint
from regrow.lineage.make import attest
from regrow.lineage.openlineage import emit
from regrow.lineage.statement import Resource, Statement
from regrow.lineage.store import embed
from regrow.tensors import ShardWriter


def record(
    stage: str,
    result: Checkpoint | tuple[Path, Sequence[Resource]],
    materials: Sequence[Resource],
    *,
    parameters: Mapping[str, Any],
    details: Mapping[str, Any] | None = None,
    started: datetime | None = None,
    inherit: Iterable[Path] = (),
    written: ShardWriter | None = None,
) -> Statement:
    """Make a stage's statement, embed it into the result's folder, and tell the lineage catalogue.

    Args:
        stage: name of the stage, one of `STAGES`.
        result: the checkpoint; or another folder, and its description (`describe_folder`).
        materials: what it was made from.
        parameters: the specification that was carried out.
        details: seeds, engine, counts.
        started: when the stage began.
        inherit: the materials' folders, whose statements the result carries on.
        written: what wrote a checkpoint's weights, if this process did.

    Raises:
        InputError: a signing key is configured and cannot be used.
    """
    if isinstance(result, Checkpoint):
        folder, subjects = result.folder, describe_checkpoint(result, written=written)
    else:
        folder, subjects = result[0], list(result[1])
    statement = attest(stage, subjects, materials, parameters=parameters, details=details, started=started)
    embed(folder, statement, inherit=inherit)
    emit(statement)
    return statement
