"""Signatures of the record's lines, where a key is configured (`regrow.lineage.signing`).

The signature over a line's first half lies beside the record, by the line's hash. It is made before the line is
taken, so that no line is ever without; that of a promoter who came too late signs a line that nobody finds.
The second half needs none: the next line's first half names its hash.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regrow.promotion.record import Begun, Line, Problem, Record
from regrow.registry.server import no_bars

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from regrow.lineage import Verifier

_FOLDER = "lines"
_UNSIGNED = "not signed"


def sign(client: "MlflowClient", record: Record, begun: Begun) -> None:
    """Sign a line that is to be taken; nothing where no key is configured.

    Raises:
        InputError: a key is configured and cannot be used.
    """
    from regrow.lineage import SigningSettings

    if (signer := SigningSettings.from_environment().signer()) is None:
        return
    with tempfile.TemporaryDirectory(prefix="regrow-promote-") as scratch:
        line = Path(scratch) / "line.json"
        line.write_bytes(begun.text().encode())
        signature = Path(scratch) / _name(begun)
        signer.sign(line, signature)
        client.log_artifact(record.run_id, str(signature), _FOLDER)


def signatures(
    client: "MlflowClient", record: Record, lines: Sequence[Line], verifier: "Verifier | None"
) -> list[Problem]:
    """Check the lines' signatures; nothing without something to check them with.

    A line that is signed vouches for those before it, whose hashes it rests on. So lines from before a key was
    configured need no signature as soon as one that came after them has its own.
    """
    from mlflow.exceptions import MlflowException

    if verifier is None or not lines:
        return []
    with tempfile.TemporaryDirectory(prefix="regrow-promote-") as scratch, no_bars():
        try:
            folder = Path(client.download_artifacts(record.run_id, _FOLDER, scratch))
        except (MlflowException, OSError):
            folder = Path(scratch)
        found = [_problem(line, folder / _name(line.begun), verifier) for line in lines]
    first = next((i for i, problem in enumerate(found) if problem is None), -1)
    return [
        problem
        for i, problem in enumerate(found)
        if problem is not None and (i > first or problem.what != _UNSIGNED)
    ]


def _problem(line: Line, signature: Path, verifier: "Verifier") -> Problem | None:
    from regrow.lineage.signing import SignatureError

    where = f"promotion record, line {line.number}"
    if not signature.is_file():
        return Problem(what=_UNSIGNED, where=where, expected=verifier.who, found="no signature")
    file = signature.with_suffix(".json")
    file.write_bytes(line.begun.text().encode())
    try:
        verifier.verify(file, signature)
    except SignatureError as error:
        return Problem(what="signature not valid", where=where, expected=verifier.who, found=str(error))
    return None


def _name(begun: Begun) -> str:
    return f"{begun.hash[:16]}.sig"
