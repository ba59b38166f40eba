"""What was stated each time that a version was registered, held against what the version says now."""

import math
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from regrow.audit.compared import Compared
from regrow.errors import InputError
from regrow.files import canonical_digest
from regrow.lineage import Statement
from regrow.registry.names import DIGEST_TAG, METRIC_PREFIX, RUN_TAG, is_fact, is_stated
from regrow.registry.statement import CARD_KEY, DOCUMENTS_KEY, card_digest, version_digest

if TYPE_CHECKING:
    from regrow.registry.versions import Version


class _Wrong(NamedTuple):
    what: str
    place: str
    expected: str | None
    found: str | None


class Registrations:
    """The registrations of a version that are stated, and the one whose outcome the version is.

    A registration again gives a version new tags beside those it has, so the outcome is all that was stated up to one
    statement. That is the latest, but for a call that was killed between its statement and its writes: then it is the
    one before, as a whole.

    Args:
        version: the version.
        stated: the statements in its runs, the latest last.
        own_run: whether the run that made the version, which holds all of its statements, can be read.
    """

    def __init__(self, version: "Version", stated: Sequence[Statement], *, own_run: bool = True) -> None:
        name = version_digest(version.name, str(version.number), version.digest or "")
        self._version, self._own_run = version, own_run
        self._all = [one for one in stated if one.stage == "register"]
        self._about = [one for one in self._all if one.subject.sha256 == name]
        # An earlier regrow stated facts alone: then a licence or number that nobody stated may be of its time.
        self._whole = all(CARD_KEY in one.details for one in self._about)
        tried = [self._wrong(self._after(number)) for number in range(len(self._about))]
        place = min(range(len(tried)), key=lambda number: (len(tried[number]), -number), default=-1)
        self._wrongs = tried[place] if tried else []
        self.outcome: dict[str, Any] = self._after(place)
        self._later = self._all[self._all.index(self._about[place]) + 1 :] if tried else []
        self._held = self._about[: place + 1]
        self._superseded = self._about[place:] if place + 1 < len(self._about) else []

    def __bool__(self) -> bool:
        return bool(self._about)

    def later(self, name: str) -> set[str]:
        """Digests of a document by registrations that came after: they write it before the version's tags."""
        digest = self._version.digest
        return {
            str(_documents(one)[name])
            for one in self._later
            if one.details.get(DIGEST_TAG) == digest and name in _documents(one)
        }

    def compare(self, compared: Compared, shown: Mapping[str, float] | None) -> None:
        """Note whether tags, model card, metrics and documents are as they were stated.

        Args:
            compared: takes the notes.
            shown: the metrics of the version's runs; None: they cannot be read.
        """
        for one in self._wrongs:
            compared.expect(*one)
        if not self._wrongs:
            compared.expect("registration", "tags and model card", "as stated", "as stated")
        if self._superseded:
            held, *_, last = self._superseded
            compared.note(
                f"says what was registered on {held.finished}, not what was stated last, on {last.finished}: that call "
                "was not finished, or somebody has put the older state back; register it again"
            )
        if CARD_KEY not in self.outcome:
            compared.note(
                "licences, numbers, model card and documents: an earlier regrow registered it and did not state them; "
                "register it again"
            )
        if not self._own_run and (unknown := self._unstated()):
            compared.note(
                f"{', '.join(unknown)}: stated in MLflow run {self._version.run_id}, if at all, which cannot be read"
            )
        if shown is not None:
            self._metrics(compared, shown)
        self._files(compared)

    def _after(self, place: int) -> dict[str, Any]:
        """What a version says after the registrations up to one."""
        outcome: dict[str, Any] = {}
        documents: dict[str, Any] = {}
        for one in self._about[: place + 1]:
            if CARD_KEY not in one.details:  # an earlier regrow, which has written more than it stated
                outcome, documents = {key: value for key, value in outcome.items() if is_fact(key)}, {}
            outcome |= one.details
            documents |= _documents(one)
        return outcome | {DOCUMENTS_KEY: documents}

    def _wrong(self, outcome: dict[str, Any]) -> list[_Wrong]:
        """In what the version's tags and card are not the outcome."""
        tags = {key: value for key, value in self._version.tags.items() if is_stated(key)}
        wrong = []
        for key in sorted(tags.keys() | {key for key in outcome if is_stated(key)}):
            expected, found = outcome.get(key), tags.get(key)
            if expected != found and not (expected is None and self._may_be(key, found)):
                wrong.append(_Wrong(f"registered as {key}", f"tag {key}", _text(expected), found))
        card = card_digest(self._version.description)
        if CARD_KEY in outcome and outcome[CARD_KEY] != card:
            wrong.append(_Wrong("model card", "description", str(outcome[CARD_KEY]), card))
        return wrong

    def _may_be(self, key: str, value: str | None) -> bool:
        """Whether a tag that is not of the outcome may be there: of a call at the same time, or not known."""
        told = any(one.details.get(key) == value for one in self._about)
        return told or not self._own_run or not (self._whole or is_fact(key))

    def _unstated(self) -> list[str]:
        told = {key for one in self._about for key in one.details}
        return [key for key in sorted(self._version.tags) if is_stated(key) and key not in told]

    def _metrics(self, compared: Compared, shown: Mapping[str, float]) -> None:
        """Compare the numbers that the runs show; a run may show those of another version, registered after."""
        for key, value in self.outcome.items():
            name = key.removeprefix(METRIC_PREFIX)
            if name == key or not math.isfinite(_number(value)):
                continue  # MLflow's databases have no infinity
            found = repr(shown[name]) if name in shown else None
            if found is None and (run := self._elsewhere(key, attrgetter("details"))):
                compared.note(f"metric {name}: lies in MLflow run {run}, which the version names no more")
            elif found is None or found not in {one.details.get(key) for one in self._later}:
                compared.expect(f"metric {name}", "metrics of the run", _text(value), found)

    def _files(self, compared: Compared) -> None:
        """Compare the documents in the runs."""
        for name, digest in sorted(self.outcome[DOCUMENTS_KEY].items()):
            found = document_digest(self._version, name)
            if found is None and (run := self._elsewhere(name, _documents)):
                compared.note(f"document {name}: lies in MLflow run {run}, which the version names no more")
            elif found is None or found not in self.later(name):
                compared.expect(f"document {name}", f"registered/{name}.json", _text(digest), found)

    def _elsewhere(self, name: str, part: Callable[[Statement], Mapping[str, Any]]) -> str | None:
        """The run of the last registration that told something, where the version names another."""
        from regrow.registry.versions import runs_of

        run = next((one.details.get(RUN_TAG) for one in reversed(self._held) if name in part(one)), None)
        return None if run is None or run in runs_of(self._version) else str(run)


def document(version: "Version", name: str) -> Any:
    """Return a document, or what is no document of any digest where it is damaged; None where there is none."""
    from regrow.registry.versions import document_of

    try:
        return document_of(version, name)
    except InputError as error:
        return str(error)


def document_digest(version: "Version", name: str) -> str | None:
    """Return the digest of a document; None where there is none."""
    found = document(version, name)
    return None if found is None else canonical_digest(found)


def _documents(statement: Statement) -> dict[str, Any]:
    found = statement.details.get(DOCUMENTS_KEY)
    return found if isinstance(found, dict) else {}


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return 0.0
