"""A checkpoint becomes a version of a registered model.

The order is such that a call killed at any point leaves the registry as it was, or as it was to be: files and
facts of the run come first, then the version with all its tags in one transaction, marked as unfinished, then the
alias, and the mark goes last (`regrow.registry.journal`). A new version is stated before the alias moves; one that
is there, before it says anything new. Where that is missing after all, the next call makes up for it.
"""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.files import atomic_folder
from regrow.registry.begun import Runs
from regrow.registry.card import card as write_card
from regrow.registry.facts import known_facts, packages
from regrow.registry.journal import PENDING_TAG, Entry, finish, recover, search
from regrow.registry.layout import MODEL_FILE, digest_in, write_around, write_mlflow_model
from regrow.registry.licences import LicenceChain, licences_of
from regrow.registry.names import (
    CHECKPOINT,
    DIGEST_TAG,
    DOCUMENTS,
    FILES,
    LICENCE_TAG,
    LICENCES_TAG,
    METRIC_PREFIX,
    RUN_TAG,
    STAGES,
    ZENML_TAG,
    first_line,
    is_fact,
    numbers_in,
    place_of,
)
from regrow.registry.server import aliases_of, clear_errors, local_path
from regrow.registry.stated import is_told, kept, registrations
from regrow.registry.statement import details_of, document_text, state, state_new

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_log = logging.getLogger(__name__)


class RegistrySpec(BaseModel):
    """Under which name and alias a run's models are registered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the registered model")
    alias: str = Field(
        "challenger", description="alias that points at the new version; of a run, the best one"
    )
    candidates: Literal["all", "best"] = Field(
        "all",
        description="of a run: whether every tuned and merged model becomes a version, with its name as alias, or the "
        "best alone",
    )

    @field_validator("alias")
    @classmethod
    def _is_not_earned(cls, alias: str) -> str:
        if alias in STAGES:
            raise ValueError(
                f"{alias} is what promotion gives (regrow promote NAME VERSION --to {alias}), after its gates; "
                "register under another alias, such as challenger"
            )
        return alias


class Registered(BaseModel):
    """A version in the registry."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="registered model")
    version: str = Field(description="version number that MLflow gave")
    alias: str = Field(description="alias that points at it")
    digest: str = Field(description="digest of the checkpoint")
    run_id: str = Field(
        description="MLflow run that holds the metrics, and files that are stored nowhere else"
    )
    tracking_uri: str = Field(description="MLflow server or database that knows the version")
    source: str = Field("", description="where the version's files lie")
    facts: dict[str, str] = Field(
        default_factory=dict,
        description="what the version says it was made from; the same for another registry",
    )
    completed: tuple[str, ...] = Field(
        (), description="what earlier, killed calls had left unfinished, and what was done about it"
    )

    @property
    def uri(self) -> str:
        """What `mlflow.transformers.load_model` takes."""
        return f"models:/{self.name}@{self.alias}"


class _Registration(BaseModel):
    """A checkpoint, under which name, and what is told of it."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    checkpoint: Checkpoint
    spec: RegistrySpec
    tags: dict[str, str]
    metrics: dict[str, float]
    documents: dict[str, Any]


class _Request(_Registration):
    """Everything that a version is to say."""

    licences: LicenceChain
    card: str

    @property
    def facts(self) -> dict[str, str]:
        """What the version says it was made from."""
        return {key: value for key, value in self.tags.items() if is_fact(key)}

    @property
    def details(self) -> dict[str, Any]:
        """What the statement of the registration tells."""
        return details_of(self.tags, self.card, self.documents)


class _Given(_Registration):
    """What a call of `register` was given."""

    licences: LicenceChain | None

    def for_new(self, run: str) -> _Request:
        """Return what a new version is to say: beside what was given, what can be found out."""
        documents = {"environment": packages(), **self.documents}
        licences = self.licences or licences_of(self.checkpoint.folder)
        return self._request(run, known_facts(self.checkpoint), documents, licences)

    def for_old(self, run: str, said: Mapping[str, str], linked: Mapping[str, str]) -> _Request:
        """Return what a version that is there is to say: this process has not made it, so it adds what was given alone.

        Args:
            run: the run of this registration.
            said: what the version says of its making, and keeps.
            linked: what it keeps whatever is given.
        """
        licences = self.licences
        if licences is None and LICENCES_TAG in said:
            licences = LicenceChain.from_tag(said[LICENCES_TAG])
        request = self._request(run, said, self.documents, licences or licences_of(self.checkpoint.folder))
        return request.model_copy(update={"tags": {**request.tags, **linked}})

    def _request(
        self, run: str, known: Mapping[str, str], documents: dict[str, Any], licences: LicenceChain
    ) -> _Request:
        tags = {
            **known,
            **self.tags,
            DIGEST_TAG: self.checkpoint.digest,
            LICENCE_TAG: licences.strictest,
            LICENCES_TAG: licences.to_tag(),
            **{f"{METRIC_PREFIX}{key}": repr(value) for key, value in self.metrics.items()},
            RUN_TAG: run,
        }
        return _Request(
            checkpoint=self.checkpoint,
            spec=self.spec,
            tags=tags,
            # Also those that the version keeps: the run that it names shows all of its numbers.
            metrics=numbers_in(tags),
            documents=documents,
            licences=licences,
            card=write_card(
                self.checkpoint, licences, title=self.spec.name, tags=tags, metrics=numbers_in(tags)
            ),
        )


def register(
    checkpoint: Checkpoint,
    spec: RegistrySpec,
    *,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    run_id: str | None = None,
    stored: str | None = None,
    licences: LicenceChain | None = None,
    documents: Mapping[str, Any] | None = None,
) -> Registered:
    """Make the checkpoint a version of a registered model, and point the alias at it.

    A version that already holds the same digest is used again: it gets what is given here, and the alias, and keeps
    all else that it says; nothing is found out anew. First of all, what an earlier, killed call has begun is completed.

    Args:
        checkpoint: what is registered; needs a tokenizer.
        spec: name and alias.
        tags: facts for the version, such as the digests of base, data and configuration. Attestation, environment
            and code commit are found out where they are not given.
        metrics: numbers of the version; also logged in the run.
        run_id: the MLflow run that the version belongs to; a new one in the experiment `regrow` if not given.
        stored: URI of a folder that holds the checkpoint as an MLflow model (`write_mlflow_model`). The version
            points at it if MLflow takes that, and nothing is copied; else the files go into the run, once.
        licences: of base and data; what the checkpoint's folder tells if not given.
        documents: values kept as JSON files in the run, for `regrow models diff` and `compare`: `config`,
            `plan`, `scores` (regrow.evaluate.scores.Scores). `environment`, the version of every package, is found
            out.

    Raises:
        InputError: the tracking server cannot be reached or refuses, the checkpoint has no tokenizer, or what lies
            at `stored` is another checkpoint.
    """
    import mlflow

    client = mlflow.MlflowClient()
    given = _Given(
        checkpoint=checkpoint,
        spec=spec,
        tags={key: str(value) for key, value in tags.items()},
        metrics={key: float(value) for key, value in metrics.items()},
        documents=dict(documents or {}),
        licences=licences,
    )
    with clear_errors(), Runs(client, spec.name, checkpoint.digest) as runs:
        _ensure_model(client, spec.name)
        said = recover(client, spec.name)
        found = _version_with(client, spec.name, checkpoint.digest)
        source = _source(checkpoint, stored) if found is None else None
        run = run_id or _own_run(client, found) or runs.take_or_make(said)
        is_new = False
        if found is None:
            request = given.for_new(run)
            _log_facts(client, request, run)
            found, is_new = _create(client, request, run, source, runs)
        if not is_new:
            told = registrations(client, found, run)
            request = given.for_old(run, kept(found.tags, told), _linked(client, found))
            # Stated before it says so: an audit takes what no statement says for tampering.
            if not is_told(request.details, told):
                number = str(found.version)
                state(client, checkpoint, spec.name, number, run, request.details, own=found.run_id)
            if not told:
                said.append(f"{spec.name} version {found.version} had not been stated; it is now")
            _log_facts(client, request, run)
            _update(client, request, found)
        runs.clear_away(run, said)
    for sentence in said:
        _log.warning("%s", sentence)
    return Registered(
        name=spec.name,
        version=str(found.version),
        alias=spec.alias,
        digest=checkpoint.digest,
        run_id=run,
        tracking_uri=mlflow.get_tracking_uri(),
        source=found.source,
        facts=request.facts,
        completed=tuple(said),
    )


def _create(
    client: "MlflowClient", request: _Request, run: str, source: str | None, runs: Runs
) -> tuple[Any, bool]:
    """Make the version, all of it in one transaction but the alias, state it, and then move the alias.

    Returns:
        The version, and true; false with one that another call has made of this checkpoint meanwhile.
    """
    name, alias = request.spec.name, request.spec.alias
    entry = Entry(alias=alias, was=aliases_of(client, name).get(alias), created=True)
    tags = request.tags | {PENDING_TAG: entry.model_dump_json()}

    def create(where: str) -> tuple[Any, bool]:
        if (other := _version_with(client, name, request.checkpoint.digest)) is not None:
            return other, False
        return client.create_model_version(name, where, run_id=run, tags=tags, description=request.card), True

    from mlflow.exceptions import MlflowException

    made = None
    if source:
        try:
            made = create(source)
        except MlflowException as error:
            if not _refused(error):
                raise
            _log.info("MLflow does not take %s as a source (%s); the files go into the run", source, error)
    if made is None:
        runs.mark(run)
        made = create(_put_files(client, request, run))
    found, is_new = made
    if is_new:
        state_new(client, request.checkpoint, name, str(found.version), run, request.details)
        finish(client, found, entry, force=True)
    return found, is_new


def _linked(client: "MlflowClient", found: Any) -> dict[str, str]:
    """Return the link of a promoted version to ZenML, which stays: the version there has the stage."""
    holds = {
        alias for alias, number in aliases_of(client, found.name).items() if number == str(found.version)
    }
    return {ZENML_TAG: found.tags[ZENML_TAG]} if holds & STAGES.keys() and ZENML_TAG in found.tags else {}


def _update(client: "MlflowClient", request: _Request, found: Any) -> None:
    """Give a version that exists its new tags and the alias."""
    name, alias = request.spec.name, request.spec.alias
    changed = {key: value for key, value in request.tags.items() if found.tags.get(key) != value}
    was = aliases_of(client, name).get(alias)
    if not changed and was == str(found.version):
        return
    entry = Entry(
        alias=alias,
        was=was,
        created=False,
        tags=changed,
        before={key: found.tags.get(key) for key in changed},
        description=request.card if request.card != found.description else None,
        before_description=found.description or "",
    )
    client.set_model_version_tag(name, str(found.version), PENDING_TAG, entry.model_dump_json())
    finish(client, found, entry, force=True)


def _source(checkpoint: Checkpoint, stored: str | None) -> str | None:
    """Return where the stored MLflow model lies, None if there is none.

    Raises:
        InputError: it is another checkpoint.
    """
    if not stored:
        return None
    source = str(local_path(stored) or stored).rstrip("/")
    if not is_there(source):
        _log.info("%s is no MLflow model (stored by an older regrow?); the files go into the run", source)
        return None
    try:
        digest = digest_in(_read(f"{source}/{MODEL_FILE}"))
    except Exception as error:  # what the store's own client raises is not known here
        _log.warning(
            "%s cannot be read from here (%s); the version points at it unseen", source, first_line(error)
        )
        return source
    if digest != checkpoint.digest:
        raise InputError(
            f"{source}: holds the checkpoint {str(digest)[:12]}, not {checkpoint.digest[:12]}; name the folder that "
            "this checkpoint was stored in"
        )
    return source


def _read(uri: str) -> str:
    import mlflow

    path = local_path(uri)
    return path.read_text(encoding="utf-8") if path else str(mlflow.artifacts.load_text(uri))


def is_there(source: str) -> bool:
    """Whether an MLflow model lies at a URI; true as well where that cannot be seen from here."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    try:
        store = get_artifact_repository(source)
    except MlflowException as error:  # a kind of store that MLflow does not know
        _log.info("MLflow cannot read %s (%s)", source, first_line(error))
        return False
    try:
        return any(one.path == MODEL_FILE for one in store.list_artifacts())
    except Exception as error:  # what the store's own client raises is not known here
        _log.warning("%s cannot be listed from here (%s)", source, first_line(error))
        return True


def _refused(error: Exception) -> bool:
    """Whether MLflow says that a version's source may not lie where it does."""
    code = getattr(error, "error_code", "")
    return code == "INVALID_PARAMETER_VALUE" and "source" in first_line(error).lower()


def _put_files(client: "MlflowClient", request: _Request, run: str) -> str:
    """Put the checkpoint as an MLflow model into the run, and return where it lies."""
    checkpoint = request.checkpoint
    path = place_of(FILES, checkpoint.digest)
    source = client.get_run(run).info.artifact_uri.rstrip("/") + "/" + path
    more: dict[str, Any] = {"run_id": run, "card": request.card, "licences": request.licences}
    if target := local_path(source):
        with atomic_folder(target, replace=True) as scratch:
            write_mlflow_model(checkpoint, scratch, **more)
        return source
    # `MLmodel` goes last: without it nothing there is a model.
    with tempfile.TemporaryDirectory(prefix="regrow-") as scratch:
        around, last = Path(scratch) / "around", Path(scratch) / MODEL_FILE
        write_around(checkpoint, around, **more)
        (around / MODEL_FILE).rename(last)
        client.log_artifacts(run, str(checkpoint.folder), f"{path}/{CHECKPOINT}")
        client.log_artifacts(run, str(around), path)
        client.log_artifact(run, str(last), path)
    return source


def _log_facts(client: "MlflowClient", request: _Request, run: str) -> None:
    """Log metrics and documents, as far as the run does not hold them."""
    known = client.get_run(run).data.metrics
    for key, value in request.metrics.items():
        if known.get(key) != value:
            client.log_metric(run, key, value)
    place = place_of(DOCUMENTS, request.checkpoint.digest)
    for name, value in sorted(request.documents.items()):
        client.log_text(run, document_text(value), f"{place}/{name}.json")
    client.log_text(run, request.card, f"{place}/README.md")


def _version_with(client: "MlflowClient", name: str, digest: str) -> Any:
    """Return the newest version with a digest whose files are still there."""
    for found in sorted(search(client, name), key=lambda one: -int(one.version)):
        if found.tags.get(DIGEST_TAG) == digest and found.status == "READY":
            if is_there(client.get_model_version_download_uri(name, str(found.version))):
                return found
            _log.warning("%s version %s: its files are gone; a new version is made", name, found.version)
    return None


def _ensure_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        try:
            client.create_registered_model(name, description="Pruned and regrown with regrow.")
        except MlflowException as late:
            if late.error_code != "RESOURCE_ALREADY_EXISTS":  # by another call at the same time
                raise


def _own_run(client: "MlflowClient", found: Any) -> str | None:
    """Return the run that wrote a version last, else the one that made it, unless somebody has deleted both."""
    from mlflow.exceptions import MlflowException

    for run in filter(None, (found.tags.get(RUN_TAG), found.run_id) if found else ()):
        try:
            if client.get_run(run).info.lifecycle_stage == "active":
                return str(run)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    return None
