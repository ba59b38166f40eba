"""The statements that a folder carries: `provenance/` at its top."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from regrow.checkpoint import PROVENANCE
from regrow.errors import InputError
from regrow.files import atomic_file
from regrow.lineage.signing import SigningSettings
from regrow.lineage.statement import Statement

_NAME = re.compile(r"(?P<stage>[a-z][a-z0-9_]*)-(?P<id>[0-9a-f]{16})\.(?P<what>json|sig)")


@dataclass(frozen=True, slots=True)
class Stored:
    """A statement on disk."""

    statement: Statement
    path: Path

    @property
    def signature(self) -> Path:
        """Where its signature is, if it has one."""
        return self.path.with_suffix(".sig")


def embed(
    folder: Path, statement: Statement, *, inherit: Iterable[Path] = (), also: Iterable[Statement] = ()
) -> None:
    """Put a statement, and what it rests on, into a folder's `provenance/`; sign it when a key is configured.

    Each file appears whole; the statement itself comes last. To do it again changes nothing.

    Args:
        folder: the result that the statement is about.
        statement: the statement.
        inherit: folders of materials, whose statements and signatures are copied.
        also: further statements, such as those about values (importance, a plan, scores).

    Raises:
        InputError: a key is configured and cannot be used.
    """
    signer = SigningSettings.from_environment().signer()
    place = folder / PROVENANCE
    place.mkdir(parents=True, exist_ok=True)
    for left_over in place.glob(".*.partial-*"):
        left_over.unlink(missing_ok=True)
    for other in inherit:
        for file in files_of(other):
            if _NAME.fullmatch(file.name) and not (target := place / file.name).exists():
                with atomic_file(target) as scratch:
                    scratch.write_bytes(file.read_bytes())
    for one in (*also, statement):
        target = place / one.file_name
        if not target.exists():
            with atomic_file(target) as scratch:
                scratch.write_bytes(one.to_json().encode())
        signature = target.with_suffix(".sig")
        if signer is not None and not signature.exists():
            with atomic_file(signature) as scratch:
                signer.sign(target, scratch)


def chain(folder: Path) -> list[Statement]:
    """Return the statements that a folder carries, each after those that it rests on.

    Nothing is verified (`audit_folder` does that); files that are no statement are left out.
    """
    return in_order([one.statement for one in stored(folder)])


def about(folder: Path, digest: str) -> Statement | None:
    """Return the latest statement that a folder carries about a result, by the result's digest."""
    found = [one.statement for one in stored(folder) if one.statement.subject.sha256 == digest]
    return max(found, key=lambda one: (one.finished, one.id), default=None)


def stored(folder: Path) -> Iterator[Stored]:
    """Yield the statements in a folder's `provenance/` that can be read."""
    for file in files_of(folder):
        if file.suffix == ".json" and _NAME.fullmatch(file.name):
            try:
                yield read(file)
            except InputError:
                continue


def read(path: Path) -> Stored:
    """Read a statement and check that its file is named by its stage and id.

    Raises:
        InputError: it cannot be read, or is not what its name says.
    """
    try:
        statement = Statement.from_json(path.read_bytes())
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if path.name != statement.file_name:
        raise InputError(f"{path}: holds the statement {statement.file_name}; it was edited or renamed")
    return Stored(statement, path)


def read_altered(path: Path) -> Statement | None:
    """Return what a statement's file holds now, though it is not what its name says; none if it is no statement."""
    try:
        return Statement.model_validate(json.loads(path.read_bytes()))
    except (ValueError, RecursionError):
        return None


def files_of(folder: Path) -> list[Path]:
    """Return what lies in a folder's `provenance/`, in order; nothing if there is none."""
    place = folder / PROVENANCE
    return sorted(place.iterdir()) if place.is_dir() else []


def is_named(name: str) -> bool:
    """Whether a file of this name may lie in `provenance/`."""
    return _NAME.fullmatch(name) is not None


def in_order(statements: Iterable[Statement]) -> list[Statement]:
    """Sort statements so that each comes after those its materials name."""
    waiting = {one.id: one for one in sorted(statements, key=lambda one: (one.finished, one.id))}
    done: dict[str, Statement] = {}

    def visit(statement: Statement) -> None:
        if waiting.pop(statement.id, None) is None:
            return
        for one in statement.materials:
            if one.attestation in waiting:
                visit(waiting[one.attestation])
        done[statement.id] = statement

    for one in list(waiting.values()):
        visit(one)
    return list(done.values())
