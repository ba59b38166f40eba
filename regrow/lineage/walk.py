"""From a result back to its sources, statement by statement, and on to what rests on it."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from regrow.checkpoint import PROVENANCE
from regrow.lineage.describe import manifest_digest
from regrow.lineage.result import Check, Failure, Link, Origin
from regrow.lineage.shelf import Shelf
from regrow.lineage.statement import FOLDER_KINDS, Resource, Statement


@dataclass(slots=True)
class Walk:
    """The links that were walked, in the order in which they were met."""

    shelf: Shelf
    links: dict[str, Link] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    unresolved: list[str] = field(default_factory=list)


def walk(shelf: Shelf, results: Iterable[Statement], *, role: str = "result") -> Walk:
    """Walk the chain of the statements about a result; failures are noted on the shelf.

    Args:
        shelf: all statements that the folder carries.
        results: those about the folder itself.
        role: "material" if they are only what the result must have been made from.
    """
    done = Walk(shelf)
    results = list(results)
    _back(done, results, role)
    # A result that was made twice, or taken from elsewhere with its statements, has several of equal right.
    while twins := [one for one in _rest(done) if one.subject.sha256 in _subjects(done)]:
        _back(done, twins, "material")
    own = {one.subject.sha256 for one in results}
    while later := [one for one in _rest(done) if _rests_on(one, done)]:
        for one in later:
            _later(done, one, own)
    for one in _rest(done):
        shelf.fail(
            Failure(
                what="statement of another chain",
                where=f"{PROVENANCE}/{one.file_name}",
                expected="statements that the result rests on, or that rest on it",
                found=f"{one.stage} of {one.subject.name} {_short(one.subject)}",
            ),
            one.id,
        )
    return done


def _back(done: Walk, roots: Iterable[Statement], role: str) -> None:
    queue = deque((one, role) for one in roots)
    while queue:
        statement, as_what = queue.popleft()
        if statement.id in done.links:
            continue
        origins = []
        for one in statement.materials:
            origin, target = _resolve(done, statement, one, must=True)
            origins.append(origin)
            if target is not None:
                queue.append((target, "material"))
        _sums(done, statement)
        done.links[statement.id] = _link(done, statement, as_what, origins)


def _later(done: Walk, statement: Statement, own: set[str | None]) -> None:
    origins = [_resolve(done, statement, one, must=False)[0] for one in statement.materials]
    if statement.subject.name in FOLDER_KINDS and statement.subject.sha256 not in own:
        done.shelf.fail(
            Failure(
                what="provenance of another result",
                where=f"{PROVENANCE}/{statement.file_name}",
                expected="statements about this result and what it was made from",
                found=f"{statement.subject.name} {_short(statement.subject)}, which was made from it",
            ),
            statement.id,
        )
    _sums(done, statement)
    done.links[statement.id] = _link(done, statement, "later", origins)


def _resolve(
    done: Walk, statement: Statement, one: Resource, *, must: bool
) -> tuple[Origin, Statement | None]:
    """Find the statement about a material; where there must be one, a missing one is a failure."""
    shelf, named = done.shelf, one.attestation
    target = shelf.statements.get(named) if named else _about(shelf, one, statement)
    where = f"{PROVENANCE}/{statement.file_name}: {one.name} {_short(one)}"
    if named and target is None and (target := shelf.altered.get(named[:16])) is not None:
        found = f"{target.stage} as it was changed, {target.id}"
        shelf.fail(Failure(what="link", where=where, expected=named, found=found), statement.id)
        return _origin(one, "statement", target.id), target
    if target is not None:
        if one.sha256 is None or one.sha256 not in {subject.sha256 for subject in target.subjects}:
            expected = f"a statement about {one.sha256}"
            found = f"{target.file_name}, which is about {target.subject.sha256}"
            shelf.fail(Failure(what="link", where=where, expected=expected, found=found), statement.id)
            return _origin(one, "missing", named), target
        text = f"{one.name} {_short(one)} is the result of {target.stage} {target.id[:12]}"
        shelf.checks[statement.id].append(Check(what="link", outcome="passed", detail=text))
        return _origin(one, "statement", target.id), target
    if named is None and (one.uri or "source" in one.annotations):
        done.sources.append(f"{one.uri or one.name} ({_short(one)})")
        return _origin(one, "source"), None
    if named is None and one.name not in FOLDER_KINDS:
        return _origin(one, "value"), None
    if not must:
        done.unresolved.append(f"{where}: its own statement is not in this folder")
        return _origin(one, "missing", named), None
    expected = f"the statement {named}" if named else "a statement about it, or the source it came from"
    shelf.fail(
        Failure(what="statement missing", where=where, expected=expected, found="none in this folder"),
        statement.id,
    )
    return _origin(one, "missing", named), None


def _about(shelf: Shelf, one: Resource, asking: Statement) -> Statement | None:
    """The latest statement about a material that names none, by its digest; not the one that asks."""
    found = [
        statement
        for statement in shelf.statements.values()
        if one.sha256 is not None
        and statement.id != asking.id
        and statement.subject.name == one.name
        and statement.subject.sha256 == one.sha256
    ]
    return max(found, key=lambda statement: (statement.finished, statement.id), default=None)


def _sums(done: Walk, statement: Statement) -> None:
    """Check that the files of a statement add up to the digest that it names."""
    if not statement.files:
        return
    whole, total = whole_digest(statement), manifest_digest(statement.files.values())
    if total == whole and len(statement.files) == len(statement.subjects) - 1:
        text = f"{len(statement.files)} files add up to {total[:12]}"
        done.shelf.checks[statement.id].append(Check(what="files", outcome="passed", detail=text))
        return
    where = f"{PROVENANCE}/{statement.file_name}: files"
    failure = Failure(what="files do not add up", where=where, expected=str(whole), found=total)
    done.shelf.fail(failure, statement.id)


def whole_digest(statement: Statement) -> str | None:
    """Return the digest over all files of a result that is a folder."""
    manifest = statement.subject.annotations.get("manifest")
    return manifest if isinstance(manifest, str) else statement.subject.sha256


def _link(done: Walk, statement: Statement, role: str, origins: list[Origin]) -> Link:
    return Link.model_validate(
        {
            "stage": statement.stage,
            "kind": statement.subject.name,
            "subject": statement.subject.sha256 or "",
            "statement": statement.id,
            "role": role,
            "finished": statement.finished,
            "signature": done.shelf.signatures[statement.id],
            "materials": origins,
            "checks": done.shelf.checks[statement.id],
            "parameters": statement.parameters,
            "details": statement.details,
            "builder": statement.predicate.run_details.builder.model_dump(mode="json", by_alias=True),
        }
    )


def _origin(one: Resource, kind: str, statement: str | None = None) -> Origin:
    digest = next((f"{algorithm}:{value}" for algorithm, value in sorted(one.digest.items())), "")
    return Origin.model_validate(
        {"name": one.name, "digest": digest, "uri": one.uri, "statement": statement, "kind": kind}
    )


def _rest(done: Walk) -> list[Statement]:
    return [one for name, one in done.shelf.statements.items() if name not in done.links]


def _subjects(done: Walk) -> set[str]:
    return {one.subject for one in done.links.values()}


def _rests_on(statement: Statement, done: Walk) -> bool:
    known = _subjects(done)
    return any(one.attestation in done.links or one.sha256 in known for one in statement.materials)


def _short(one: Resource) -> str:
    return next((value[:12] for _, value in sorted(one.digest.items())), "without digest")
