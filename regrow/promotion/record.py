"""The promotion record: who moved which version where, on what grounds; append-only and hash-chained.

MLflow keeps an alias, not its history, and lets the last of two writers win. So every promotion first takes a
line of a record that all promoters share, and the alias and the ZenML stage follow the record.

Which write of MLflow is a compare-and-swap? Of all that its client can write, three things are refused when
they are there already: the name of a registered model, the name of an experiment, and **the parameter of a
run**. Tags and aliases are overwritten; numbers of model versions are allotted one after the other, so a writer
learns only afterwards whether somebody came between, and a request that is sent again makes another version.
A parameter is the right one:

- its primary key is (run, key), so that of two transactions that insert the same key the database lets one
  through, on SQLite, PostgreSQL and MySQL alike, and MLflow refuses to give it another value;
- nothing in MLflow's API changes or deletes it, other than deleting the run;
- writing the same value again is accepted, so that a request whose answer was lost may be repeated, as MLflow's
  REST client does by itself;
- one request (`runs/log-parameter`) does it, through a server as on a database.

Each line `n` is two parameters of one run: `promotion.<n>.begun`, the intention, and `promotion.<n>.end`, what
became of it. A line may begin only after the line before it has ended, and names the hash of that end; both
keys are taken once. So at most one promotion is under way, no two follow the same line, and of two that mean to
complete or undo a promotion that was killed, one does.

The run must be one for all promoters, and runs have no names that are unique. It is made inside an experiment
that nobody looks for and then published by giving the experiment its name, which only one can have.
"""

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from regrow.errors import InputError, RegrowError
from regrow.files import canonical_digest
from regrow.processes import Process
from regrow.registry.names import first_line
from regrow.registry.server import SECONDS_BETWEEN_TRIES, again

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "regrow-promotions"
# Of the experiment: the run that holds the record.
RUN_TAG = "regrow.record"
# Of a version: number and hash of the last line that moved it, which stay behind when somebody takes that line out;
# after it, what was left behind so before (`marks_of`).
LINE_TAG = "regrow.promotion"
GENESIS = "0" * 64
Target = Literal["staging", "champion"]
TARGETS: tuple[Target, ...] = ("staging", "champion")
# MLflow cuts longer parameters off without an error.
_MAX_LINE = 6000


class PromotionConflictError(RegrowError):
    """Another promotion came first; the message names it."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    def text(self) -> str:
        """The parameter's value: canonical JSON."""
        value = self.model_dump(mode="json", by_alias=True)
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class Placed(_Part):
    """A version, and the checkpoint that it was."""

    version: str = Field(description="version number in MLflow")
    digest: str = Field(description="digest of its checkpoint")


class GateLine(_Part):
    """A gate in the record."""

    name: str
    passed: bool
    observed: str = Field("", description="what was found, in short")


class Moves(_Part):
    """Where things point before and after."""

    before: dict[str, str | None]
    after: dict[str, str | None]


class Begun(_Part):
    """The intention: a line's first half."""

    number: int = Field(ge=1)
    previous: str = Field(description="hash of the end of the line before; zeros in line 1")
    kind: Literal["promotion", "rollback"]
    model: str = Field(description="registered model")
    target: Target
    source: Placed | None = Field(alias="from", description="what the alias pointed at before")
    to: Placed = Field(description="what it points at afterwards")
    who: str
    when: str = Field(description="UTC, RFC 3339")
    gates: tuple[GateLine, ...]
    decision: str = Field(description="digest of the decision with its gates in full, an artifact of MLflow")
    forced: bool
    reason: str | None = Field(description="why gates that failed were passed over")
    aliases: Moves = Field(description="version by alias in MLflow")
    stages: Moves | None = Field(description="stage by version of the model in ZenML; null where it has none")
    process: Process
    lease: float = Field(description="seconds after which another host takes the promoter for dead")
    hash: str = Field("", description="SHA-256 of all the rest in canonical form")


class End(_Part):
    """What became of it: a line's second half."""

    number: int = Field(ge=1)
    previous: str = Field(description="hash of the first half")
    state: Literal["done", "undone"]
    who: str
    when: str = Field(description="UTC, RFC 3339")
    note: str = Field("", description="how it came to it, where it was not the plain way")
    hash: str = Field("", description="SHA-256 of all the rest in canonical form")


class Line(BaseModel):
    """One line of the record."""

    model_config = ConfigDict(frozen=True)

    begun: Begun
    end: End | None = None

    @property
    def number(self) -> int:
        """Its place, from 1."""
        return self.begun.number

    @property
    def state(self) -> Literal["begun", "done", "undone"]:
        """Whether it was carried out."""
        return self.end.state if self.end else "begun"

    @property
    def last_hash(self) -> str:
        """What the next line names as `previous`."""
        return (self.end or self.begun).hash

    def said(self) -> str:
        """Tell it in words."""
        one = self.begun
        forced = f", forced: {one.reason}" if one.forced else ""
        return f"{one.kind} {one.number} of version {one.to.version} to {one.target} by {one.who} at {one.when}{forced}"

    def as_dict(self) -> dict[str, Any]:
        """The line for people: the intention with its state."""
        value = self.begun.model_dump(mode="json", by_alias=True) | {"state": self.state}
        return value | ({"ended": self.end.model_dump(mode="json")} if self.end else {})


class Problem(BaseModel):
    """Something about the record that does not hold."""

    model_config = ConfigDict(frozen=True)

    what: str = Field(description="what is wrong, in words")
    where: str = Field(description="line, alias, stage or version")
    expected: str = ""
    found: str = ""

    def said(self) -> str:
        """Tell it in one line."""
        pair = f" (expected {self.expected}, found {self.found})" if self.expected or self.found else ""
        return f"{self.where}: {self.what}{pair}"


H = TypeVar("H", Begun, End)


def sealed(part: H) -> H:
    """Return a half with its hash."""
    return part.model_copy(update={"hash": hash_of(part)})


def hash_of(part: Begun | End) -> str:
    """Return the SHA-256 of everything in a half but its hash."""
    return canonical_digest(part.model_dump(mode="json", by_alias=True, exclude={"hash"}))


def utc_now() -> str:
    """Return the time as the record writes it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def marks_of(tag: str) -> list[tuple[str, str]]:
    """Return number and hash of each line that a version's tag names, the last one first."""
    pairs = (one.partition(" ") for one in tag.split("; ") if one)
    return [(number, mark) for number, _, mark in pairs]


def without_line(tag: str, lines: Iterable["Line"]) -> list[tuple[str, str]]:
    """Return the lines that a version's tag names and the record does not have: removed, or edited."""
    there = {(str(line.number), line.begun.hash) for line in lines}
    return [one for one in marks_of(tag) if one not in there]


class Record:
    """The record of one registered model, in the MLflow that a client speaks to."""

    def __init__(self, client: "MlflowClient", model: str, run_id: str) -> None:
        self.client, self.model, self.run_id = client, model, run_id

    @classmethod
    def find(cls, client: "MlflowClient", model: str) -> "Record | None":
        """Return the record; None if nothing was ever promoted.

        Raises:
            InputError: its experiment is deleted, or does not name its run.
        """
        name = f"{EXPERIMENT}/{model}"
        experiment = again(lambda: client.get_experiment_by_name(name))
        if experiment is None:
            return None
        if experiment.lifecycle_stage != "active":
            raise InputError(
                f"MLflow experiment {name}, which holds the promotion record of {model}, is deleted; restore it"
            )
        if not (run_id := experiment.tags.get(RUN_TAG)):
            raise InputError(
                f"MLflow experiment {name} has no tag {RUN_TAG}; it must name the run with the record"
            )
        return cls(client, model, run_id)

    @classmethod
    def open(cls, client: "MlflowClient", model: str) -> "Record":
        """Return the record; an empty one if there is none. Of two that make it, one does."""
        if found := cls.find(client, model):
            return found
        from mlflow.exceptions import MlflowException

        # Only the name publishes it: one that was left half-made is nobody's record.
        made = client.create_experiment(f"{EXPERIMENT}/.making-{uuid.uuid4().hex}")
        run = client.create_run(made, run_name=f"promotions of {model}", tags={"regrow.model": model})
        client.set_experiment_tag(made, RUN_TAG, run.info.run_id)
        note = f"The promotion record of {model}, one parameter a line. `regrow promote {model} --record` shows it."
        client.set_experiment_tag(made, "mlflow.note.content", note)
        try:
            client.rename_experiment(made, f"{EXPERIMENT}/{model}")
        except MlflowException:
            # Somebody else has just made it, or MLflow is out of order, which `find` will tell.
            client.delete_experiment(made)
        found = cls.find(client, model)
        if found is None:
            raise RegrowError(
                f"MLflow did not take the experiment {EXPERIMENT}/{model}; check rights and log"
            )
        return found

    def params(self) -> dict[str, str]:
        """Return the parameters as they are stored.

        Raises:
            InputError: the run is deleted.
        """
        run = again(lambda: self.client.get_run(self.run_id))
        if run.info.lifecycle_stage != "active":
            raise InputError(
                f"MLflow run {self.run_id}, the promotion record of {self.model}, is deleted; restore it"
            )
        return dict(run.data.params)

    def lines(self) -> list[Line]:
        """Return the lines that can be read, in order; `chain_problems` tells what is wrong with the rest."""
        return self.lines_in(self.params())

    @staticmethod
    def lines_in(params: Mapping[str, str]) -> list[Line]:
        """Return the lines among a run's parameters."""
        lines = []
        for number in _numbers(params):
            begun = _read(Begun, params.get(_key(number, "begun")))
            if begun is not None:
                lines.append(Line(begun=begun, end=_read(End, params.get(_key(number, "end")))))
        return lines

    @staticmethod
    def next_in(params: Mapping[str, str]) -> tuple[int, str]:
        """Return the number of the next line, and the hash that it must name as the one before."""
        lines = Record.lines_in(params)
        return (max(_numbers(params), default=0) + 1, lines[-1].last_hash if lines else GENESIS)

    def begin(self, part: Begun) -> Begun:
        """Take a line: the compare-and-swap.

        Raises:
            PromotionConflictError: somebody else has taken it.
        """
        part = sealed(part)
        if not self._take(_key(part.number, "begun"), part.text()):
            raise PromotionConflictError(self._winner(part))
        return part

    def end(self, part: End) -> bool:
        """Write what became of a line; return whether it says so now (else somebody wrote the opposite)."""
        part = sealed(part)
        if self._take(_key(part.number, "end"), part.text()):
            return True
        there = _read(End, self.params().get(_key(part.number, "end")))
        return there is not None and there.state == part.state

    def _take(self, key: str, text: str) -> bool:
        """Write a parameter that nobody has written; return whether this text is what stands there.

        What stands there decides, not the answer: an answer may be lost after the write.
        """
        from mlflow.exceptions import MlflowException

        if len(text) > _MAX_LINE:
            raise RegrowError(
                f"promotion record of {self.model}: a line of {len(text)} characters is too long"
            )
        error: MlflowException | None = None
        for seconds in (*SECONDS_BETWEEN_TRIES, None):
            try:
                self.client.log_param(self.run_id, key, text)
            except MlflowException as failed:
                error = failed
            if (there := self.params().get(key)) is not None:
                return there == text
            if seconds is not None:
                time.sleep(seconds)
        why = first_line(error) if error else "no error was given"
        raise RegrowError(
            f"MLflow did not take {key} of run {self.run_id}: {why}; nothing was moved"
        ) from error

    def _winner(self, mine: Begun) -> str:
        line = next((one for one in self.lines() if one.number == mine.number), None)
        if line is None:
            return f"line {mine.number} of the promotion record of {self.model} is taken and cannot be read"
        return (
            f"{self.model}: version {mine.to.version} was not promoted, because another came first: {line.said()}. "
            "Look at it, and promote again if it is still wanted"
        )


def chain_problems(params: Mapping[str, str], model: str) -> list[Problem]:
    """Check a record's parameters by themselves: every line there, in its place, unchanged and in the chain."""
    problems = [
        Problem(what="not a line of the record", where=f"parameter {key}", found=params[key][:80])
        for key in sorted(params)
        if not _place(key)
    ]
    last = max(_numbers(params), default=0)
    previous: str | None = GENESIS
    for number in range(1, last + 1):
        begun = _check(Begun, params, number, "begun", previous, problems)
        if begun is not None and begun.model != model:
            where = _where(number, "begun")
            problems.append(Problem(what="of another model", where=where, expected=model, found=begun.model))
        key = _key(number, "end")
        if number == last and key not in params:
            break
        end = _check(End, params, number, "end", begun.hash if begun else None, problems)
        previous = end.hash if end else None
    return problems


def _check(
    kind: type[H],
    params: Mapping[str, str],
    number: int,
    half: str,
    previous: str | None,
    problems: list[Problem],
) -> H | None:
    where = _where(number, half)
    text = params.get(_key(number, half))
    if text is None:
        problems.append(Problem(what="removed", where=where))
        return None
    part = _read(kind, text)
    if part is None:
        problems.append(Problem(what="edited: it cannot be read", where=where, found=text[:80]))
        return None
    if part.hash != hash_of(part) or part.text() != text:
        edited = Problem(what="edited", where=where, expected=f"hash {part.hash}", found=hash_of(part))
        problems.append(edited)
    if part.number != number:
        problems.append(
            Problem(what="reordered", where=where, expected=f"line {number}", found=f"line {part.number}")
        )
    elif previous is not None and part.previous != previous:
        problems.append(
            Problem(
                what="does not follow the line before: one was removed, edited or forged",
                where=where,
                expected=f"previous {previous}",
                found=part.previous,
            )
        )
    return part


def standing(lines: Iterable[Line]) -> dict[Target, str | None]:
    """Return which version each alias points at by the record; of a line that has not ended, as before it."""
    now: dict[Target, str | None] = dict.fromkeys(TARGETS)
    for line in lines:
        moves = line.begun.aliases
        told = moves.after if line.state == "done" else moves.before
        now |= {alias: told[alias] for alias in TARGETS if alias in told}
    return now


def staged(lines: Sequence[Line]) -> dict[Target, str | None]:
    """Return which version each stage of ZenML belongs to by the record; only stages that a line has moved."""
    moved = {line.begun.target for line in lines if line.begun.stages is not None}
    return {alias: version for alias, version in standing(lines).items() if alias in moved}


def champions(lines: Iterable[Line], target: str = "champion") -> list[Placed]:
    """Return the versions that a rollback can go back through, the present one last."""
    stack: list[Placed] = []
    for line in lines:
        one = line.begun
        if line.state != "done" or one.target != target:
            continue
        if one.kind == "rollback":
            stack = stack[:-1]
            if not stack or stack[-1] != one.to:
                stack.append(one.to)
        else:
            if not stack and one.source is not None and one.source != one.to:
                stack.append(one.source)
            stack.append(one.to)
    return stack


def _numbers(params: Mapping[str, str]) -> list[int]:
    return sorted({found[0] for key in params if (found := _place(key))})


def _key(number: int, half: str) -> str:
    return f"promotion.{number:06d}.{half}"


def _place(key: str) -> tuple[int, str] | None:
    """Return number and half of a parameter's key."""
    parts = key.split(".")
    if len(parts) != 3 or parts[0] != "promotion" or parts[2] not in ("begun", "end"):
        return None
    if (
        not (parts[1].isascii() and parts[1].isdigit())
        or key != _key(int(parts[1]), parts[2])
        or int(parts[1]) < 1
    ):
        return None
    return int(parts[1]), parts[2]


def _where(number: int, half: str) -> str:
    return f"promotion record, line {number} ({half})"


def _read(kind: type[H], text: str | None) -> H | None:
    try:
        return kind.model_validate_json(text) if text is not None else None
    except ValidationError:
        return None
