"""Every file in `provenance/`, read and checked for itself: content, name, signature."""

from dataclasses import dataclass, field
from pathlib import Path

from regrow.checkpoint import PROVENANCE
from regrow.errors import InputError
from regrow.files import sha256_of
from regrow.lineage.result import Check, Failure, SignatureState
from regrow.lineage.signing import SignatureError, Verifier, signed_digest
from regrow.lineage.statement import Statement
from regrow.lineage.store import Stored, files_of, is_named, read, read_altered


@dataclass(slots=True)
class Shelf:
    """The statements of a folder by id, and what is wrong with the files."""

    statements: dict[str, Statement] = field(default_factory=dict)
    signatures: dict[str, SignatureState] = field(default_factory=dict)
    checks: dict[str, list[Check]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    # Statements that are not what their file's name says, by the 16 digits of the name.
    altered: dict[str, Statement] = field(default_factory=dict)
    # Whether a statement cannot be read at all, or only its signature is left.
    gaps: bool = False

    def fail(self, failure: Failure, statement: str | None = None) -> None:
        """Note a failure, and on the statement that it concerns."""
        self.failures.append(failure)
        if statement is not None:
            text = f"{failure.where}: expected {failure.expected}, found {failure.found}"
            self.checks[statement].append(Check(what=failure.what, outcome="failed", detail=text))


def read_shelf(folder: Path, verifier: Verifier | None) -> Shelf:
    """Read and check all that lies in a folder's `provenance/`.

    Args:
        folder: the folder.
        verifier: what signatures are checked with; without one, only whether they speak of their statement.
    """
    shelf = Shelf()
    for file in files_of(folder):
        where = f"{PROVENANCE}/{file.name}"
        if not is_named(file.name) or not file.is_file():
            shelf.fail(
                Failure(
                    what="file added",
                    where=where,
                    expected="statements and their signatures alone",
                    found="another file" if file.is_file() else "a folder or a broken link",
                )
            )
        elif file.suffix == ".sig":
            if not file.with_suffix(".json").exists():
                shelf.gaps = True
                shelf.fail(
                    Failure(
                        what="statement missing",
                        where=f"{PROVENANCE}/{file.stem}.json",
                        expected="the statement that this signature speaks of",
                        found="no such file",
                    )
                )
        else:
            try:
                stored = read(file)
            except InputError as error:
                _put_altered(shelf, file, where, str(error).removeprefix(f"{file}: "))
            else:
                _put(shelf, stored, where, verifier)
    return shelf


def _put_altered(shelf: Shelf, file: Path, where: str, reason: str) -> None:
    """Keep an edited statement for what it says, so that the rest of the chain can be looked at."""
    begins = file.stem.rpartition("-")[2]
    failure = Failure(
        what="statement changed",
        where=where,
        expected=f"a statement whose id begins with {begins}",
        found=reason,
    )
    statement = read_altered(file)
    if statement is None or statement.id in shelf.statements:
        shelf.gaps = statement is None or shelf.gaps
        shelf.fail(failure)
        return
    shelf.statements[statement.id] = shelf.altered[begins] = statement
    shelf.signatures[statement.id] = "invalid" if file.with_suffix(".sig").exists() else "unsigned"
    shelf.checks[statement.id] = []
    shelf.fail(failure, statement.id)


def _put(shelf: Shelf, stored: Stored, where: str, verifier: Verifier | None) -> None:
    statement = stored.statement
    name = statement.id
    shelf.statements[name] = statement
    shelf.checks[name] = [Check(what="id", outcome="passed", detail=f"SHA-256 of the file is {name}")]
    where = f"{where.removesuffix('.json')}.sig"
    try:
        shelf.signatures[name] = _signature(stored, verifier)
    except SignatureError as error:
        shelf.signatures[name] = "invalid"
        expected = "a valid signature" + (f" by {verifier.who}" if verifier else " over this statement")
        shelf.fail(Failure(what="signature", where=where, expected=expected, found=str(error)), name)
        return
    state = shelf.signatures[name]
    if state == "unsigned" and verifier is not None:
        expected = f"a signature by {verifier.who}"
        shelf.fail(Failure(what="signature", where=where, expected=expected, found="no signature"), name)
    elif state == "valid" and verifier is not None:
        shelf.checks[name].append(Check(what="signature", outcome="passed", detail=verifier.who))
    else:
        detail = "unsigned" if state == "unsigned" else "no key given"
        shelf.checks[name].append(Check(what="signature", outcome="not checked", detail=detail))


def _signature(stored: Stored, verifier: Verifier | None) -> SignatureState:
    if not stored.signature.exists():
        return "unsigned"
    if verifier is not None:
        verifier.verify(stored.path, stored.signature)
        return "valid"
    # Even without a key: a signature over other content cannot be this statement's.
    if (signed := signed_digest(stored.signature)) != (found := sha256_of(stored.path)):
        raise SignatureError(f"it signs other content ({signed[:12]}, not {found[:12]})")
    return "unchecked"
