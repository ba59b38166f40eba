"""Signatures of the record's lines, where a key is configured (`regrow.lineage.signing`).

The signature over a line's first half lies beside the record, by the line's hash. It is made before the line is
taken, so that no line is ever without; that of a promoter who came too late signs a line that nobody finds.
The second half needs none: the next line's first half names its hash.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from regrow.promotion.record import Begun, Line, Problem, Record
from regrow.registry.server import no_bars

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from regrow.lineage import Verifier

_FOLDER = "lines"


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


def signature_problems(
    client: "MlflowClient", record: Record, line: Line, verifier: "Verifier | None"
) -> list[Problem]:
    """Check a line's signature; nothing without something to check it with."""
    from mlflow.exceptions import MlflowException

    from regrow.lineage.signing import SignatureError

    if verifier is None:
        return []
    where = f"promotion record, line {line.number}"
    with tempfile.TemporaryDirectory(prefix="regrow-promote-") as scratch, no_bars():
        file = Path(scratch) / "line.json"
        file.write_bytes(line.begun.text().encode())
        try:
            name = f"{_FOLDER}/{_name(line.begun)}"
            signature = Path(client.download_artifacts(record.run_id, name, scratch))
        except (MlflowException, OSError):
            return [Problem(what="not signed", where=where, expected=verifier.who, found="no signature")]
        try:
            verifier.verify(file, signature)
        except SignatureError as error:
            return [Problem(what="signature not valid", where=where, expected=verifier.who, found=str(error))]
    return []


def _name(begun: Begun) -> str:
    return f"{begun.hash[:16]}.sig"
