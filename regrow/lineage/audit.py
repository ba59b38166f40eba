"""The audit: is this folder what its statements say, and where did it come from?"""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from regrow.checkpoint import PROVENANCE, manifest
from regrow.errors import InputError
from regrow.files import canonical_digest
from regrow.lineage.files import Manifest, compare, linked_folders
from regrow.lineage.result import AuditResult, Check, Failure, Other, weakest
from regrow.lineage.shelf import Shelf, read_shelf
from regrow.lineage.signing import Verifier
from regrow.lineage.statement import Statement
from regrow.lineage.walk import Walk, walk, whole_digest

UNSIGNED = (
    "signatures: there are none. Files and statements agree with each other, but whoever can write this folder "
    "could have written both; nothing here proves who made them"
)
NO_KEY = (
    "signatures: not checked, no key given (--key or --roots; REGROW_VERIFY_KEY or REGROW_VERIFY_ROOTS); "
    "who made the statements is not proven"
)
SOME_UNSIGNED = "signatures: {missing} of {all} statements have none"
NO_OTHERS = (
    "registry, promotion record, artifact store: not asked; only the folder and its statements were looked at"
)


def audit_folder(
    folder: str | Path,
    *,
    verifier: Verifier | None = None,
    around: Other | None = None,
    others: Sequence[Other] = (),
    target: str | None = None,
) -> AuditResult:
    """Audit a folder that carries its statements.

    The digest is computed again from all files. If a statement is about that digest, its chain is walked back
    to the sources, and each statement's id, signature and links are checked; if not, the folder is compared
    with the statement that fits best, file by file and tensor by tensor.

    Args:
        folder: a checkpoint, a data set, or another result with `provenance/`.
        verifier: what signatures are checked with (`SigningSettings.verifier`); not checked if not given.
        around: a check of what lies beside the folder and belongs to it.
        others: further checks, such as against a registry; each gets the result so far.
        target: what the user asked for, if not the folder.

    Raises:
        InputError: no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    begun = time.perf_counter()
    found = manifest(folder)
    hashed = time.perf_counter()
    digest = canonical_digest(found)
    shelf = read_shelf(folder, verifier)
    own = _latest_first(one for one in shelf.statements.values() if whole_digest(one) == digest)
    checks: list[Check] = []
    if own:
        checks.append(Check(what="digest", outcome="passed", detail=f"{len(found)} files: {digest}"))
        results, role = own, "result"
    else:
        results, role = _differs(folder, shelf, found, digest, checks)
    for failure in linked_folders(folder):
        shelf.fail(failure)
    done = walk(shelf, results, role=role)
    subject = results[0].subject if results and role == "result" else None
    if subject is not None and own and (wrong := _rows(folder, results[0])) is not None:
        shelf.fail(wrong)
    result = AuditResult(
        target=target or str(folder),
        verified=not shelf.failures,
        digest=(subject.sha256 or digest) if subject and own else digest,
        kind=subject.name if subject else "unknown",
        signature=weakest(shelf.signatures.values()),
        chain=list(done.links.values()),
        failures=shelf.failures,
        not_checked=_not_checked(shelf, done, verifier, asked=bool(others)),
        checks=checks,
        seconds={
            "hashing": round(hashed - begun, 3),
            "chain": round(time.perf_counter() - hashed, 3),
        },
    )
    for other in (*([around] if around else []), *others):
        result = result.with_findings([other(result)])
    return result


def _latest_first(statements: Iterable[Statement]) -> list[Statement]:
    return sorted(statements, key=lambda one: (one.finished, one.id), reverse=True)


def _differs(
    folder: Path, shelf: Shelf, found: Manifest, digest: str, checks: list[Check]
) -> tuple[list[Statement], str]:
    """Say how a folder differs from the statement that it should fit.

    Returns:
        That statement, and "result"; or those that the folder must rest on, and "material".
    """
    stated = _candidates(shelf)
    about = f"a statement about {digest}"
    checks.append(Check(what="digest", outcome="failed", detail=f"no statement is about {digest}"))
    if not stated or len(stated) > 1 or shelf.gaps:
        # The statement itself is gone; to compare with what the folder was made from would mislead.
        where = PROVENANCE + "/"
        shelf.fail(Failure(what="no statement", where=where, expected=about, found=_nothing(folder, shelf)))
        return stated, "material"
    best = stated[0]
    failure = Failure(
        what="digest",
        where="the folder",
        expected=f"{whole_digest(best)}, the result of {best.stage} {best.id[:12]}",
        found=digest,
    )
    shelf.fail(failure, best.id)
    for failure in compare(folder, best, found):
        shelf.fail(failure, best.id)
    return [best], "result"


def _candidates(shelf: Shelf) -> list[Statement]:
    """The statements about folders that no other folder was made from; of several about one folder the latest."""
    folders = [one for one in shelf.statements.values() if one.files]
    used = {
        origin.sha256 for one in folders for origin in one.materials if origin.sha256 != one.subject.sha256
    }
    free = {one.subject.sha256: one for one in reversed(_latest_first(folders))}
    return [one for digest, one in free.items() if digest not in used]


def _nothing(folder: Path, shelf: Shelf) -> str:
    if not (folder / PROVENANCE).is_dir():
        return "no provenance/ folder"
    if not shelf.statements:
        return "no statement that can be read"
    return "statements about " + ", ".join(
        sorted({f"{one.subject.name} {(one.subject.sha256 or '')[:12]}" for one in shelf.statements.values()})
    )


def _rows(folder: Path, statement: Statement) -> Failure | None:
    """Check a data set's own digest, which is over its rows."""
    if statement.subject.name != "dataset" or not (folder / "records.parquet").exists():
        return None
    from regrow.selfdata import SelfData

    try:
        found = SelfData.open(folder).digest
    except InputError as error:
        found = str(error)
    expected = statement.subject.sha256 or ""
    if found == expected:
        return None
    return Failure(what="digest of the rows", where="records.parquet", expected=expected, found=found)


def _not_checked(shelf: Shelf, done: Walk, verifier: Verifier | None, *, asked: bool) -> list[str]:
    states = list(shelf.signatures.values())
    missing = states.count("unsigned")
    notes = []
    if states and missing == len(states) and verifier is None:
        notes.append(UNSIGNED)
    elif states and verifier is None:
        notes.append(NO_KEY)
        if missing:
            notes.append(SOME_UNSIGNED.format(missing=missing, all=len(states)))
    notes += [f"source, not compared with its origin: {one}" for one in dict.fromkeys(done.sources)]
    notes += dict.fromkeys(done.unresolved)
    if not asked:
        notes.append(NO_OTHERS)
    return notes
