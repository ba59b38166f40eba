"""A checkpoint becomes a version of a registered model.

The order is such that a call killed at any point leaves the registry as it was, or as it was to be: files and
facts of the run come first, then the version with all its tags in one transaction, marked as unfinished, then the
alias, and the mark goes last (`regrow.registry.journal`).
"""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from pydantic import BaseModel, ConfigDict, Field, field_validator

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.files import atomic_folder, sweep
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
    first_line,
    is_fact,
    place_of,
)
from regrow.registry.server import aliases_of, clear_errors
from regrow.registry.statement import details_of, document_text, state_again, state_new

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "regrow"
# A run into which a call has begun to write what belongs to a checkpoint.
BEGUN_TAG = "regrow.registering"
_log = logging.getLogger(__name__)


class RegistrySpec(BaseModel):
    """Under which name and alias the best candidate is registered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the registered model")
    alias: str = Field("challenger", description="alias that points at the new version")

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


class _Request(BaseModel):
    """Everything that a version is to say."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    checkpoint: Checkpoint
    spec: RegistrySpec
    tags: dict[str, str]
    metrics: dict[str, float]
    documents: dict[str, Any]
    licences: LicenceChain
    card: str

    @property
    def mark(self) -> str:
        return f"{self.spec.name} {self.checkpoint.digest}"


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

    A version that already holds the same digest is used again: it gets the new tags, and the alias. First of all,
    what an earlier, killed call has begun is completed.

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
    licences = licences or licences_of(checkpoint.folder)
    tags = {
        **known_facts(checkpoint),
        **{key: str(value) for key, value in tags.items()},
        DIGEST_TAG: checkpoint.digest,
        LICENCE_TAG: licences.strictest,
        LICENCES_TAG: licences.to_tag(),
        **{f"{METRIC_PREFIX}{key}": repr(float(value)) for key, value in metrics.items()},
    }
    request = _Request(
        checkpoint=checkpoint,
        spec=spec,
        tags=tags,
        metrics={key: float(value) for key, value in metrics.items()},
        documents={"environment": packages(), **(documents or {})},
        licences=licences,
        card=write_card(checkpoint, licences, title=spec.name, tags=tags, metrics=metrics),
    )
    with clear_errors():
        _ensure_model(client, spec.name)
        said = recover(client, spec.name)
        found = _version_with(client, spec.name, checkpoint.digest)
        source = _source(checkpoint, stored) if found is None else None
        run = run_id or _own_run(client, found) or _begun_or_new_run(client, request, said)
        request = request.model_copy(update={"tags": request.tags | {RUN_TAG: run}})
        details = details_of(request.tags, request.card, request.documents)
        is_new = found is None
        if found is not None:
            # Stated before it says so: an audit takes what no statement says for tampering.
            state_again(client, checkpoint, found, run, details)
        _log_facts(client, request, run)
        facts = {key: value for key, value in request.tags.items() if is_fact(key)}
        if found is None:
            found = _create(client, request, run, source)
        else:
            _update(client, request, found)
        _clear_away(client, request, run, said)
    if is_new:
        state_new(client, checkpoint, spec.name, str(found.version), run, details)
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
        facts=facts,
        completed=tuple(said),
    )


def _create(client: "MlflowClient", request: _Request, run: str, source: str | None) -> Any:
    """Make the version, all of it in one transaction but the alias, and then move the alias."""
    name, alias = request.spec.name, request.spec.alias
    entry = Entry(alias=alias, was=aliases_of(client, name).get(alias), created=True)
    tags = request.tags | {PENDING_TAG: entry.model_dump_json()}

    def create(where: str) -> Any:
        return client.create_model_version(name, where, run_id=run, tags=tags, description=request.card)

    from mlflow.exceptions import MlflowException

    found = None
    if source:
        try:
            found = create(source)
        except MlflowException as error:
            if not _refused(error):
                raise
            _log.info("MLflow does not take %s as a source (%s); the files go into the run", source, error)
    if found is None:
        found = create(_put_files(client, request, run))
    finish(client, found, entry, force=True)
    return found


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
    client.set_tag(run, BEGUN_TAG, request.mark)
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


def local_path(uri: str) -> Path | None:
    """Return the path that a URI without a scheme, or with `file:`, names; None for any other."""
    parsed = urlparse(uri)
    if parsed.scheme == "":
        return Path(uri).absolute()
    return Path(unquote(parsed.path)) if parsed.scheme == "file" else None


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
    """Return the run of a version, unless somebody has deleted it."""
    from mlflow.exceptions import MlflowException

    if found is None or not found.run_id:
        return None
    try:
        run = client.get_run(found.run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return str(found.run_id) if run.info.lifecycle_stage == "active" else None


def _begun_or_new_run(client: "MlflowClient", request: _Request, said: list[str]) -> str:
    """Return a run that a killed call has begun, or a new one."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    where = experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)
    if left := _begun(client, request, where):
        said.append(f"went on in the MLflow run {left[0].info.run_id}, which an earlier call had begun")
        return str(left[0].info.run_id)
    made = client.create_run(where, run_name=f"register-{request.spec.name}", tags={BEGUN_TAG: request.mark})
    return str(made.info.run_id)


def _clear_away(client: "MlflowClient", request: _Request, run: str, said: list[str]) -> None:
    """Take the marks from the runs, and remove files that a killed call has put into a run of no version."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    own = client.get_run(run)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    places = {own.info.experiment_id, *([experiment.experiment_id] if experiment else [])}
    used = {one.run_id for one in search(client, request.spec.name)}
    for left in [one for place in sorted(places) for one in _begun(client, request, place)]:
        run_id = left.info.run_id
        if run_id != run and run_id not in used:
            place = f"{left.info.artifact_uri.rstrip('/')}/{place_of(FILES, request.checkpoint.digest)}"
            try:
                if target := local_path(place):
                    sweep(target)
                get_artifact_repository(left.info.artifact_uri).delete_artifacts(
                    place_of(FILES, request.checkpoint.digest)
                )
                said.append(f"removed what an earlier call had copied into the MLflow run {run_id}")
            except Exception as error:  # a server may not let files be deleted; nothing depends on it
                _log.warning("%s is of no use and could not be removed (%s)", place, first_line(error))
        if left.data.tags.get("mlflow.runName") == f"register-{request.spec.name}":
            client.set_terminated(run_id)
        client.delete_tag(run_id, BEGUN_TAG)


def _begun(client: "MlflowClient", request: _Request, experiment_id: str) -> list[Any]:
    """Return runs that a call for the same model and checkpoint has begun and not finished."""
    return list(
        client.search_runs(
            [experiment_id], filter_string=f"tags.`{BEGUN_TAG}` = '{request.mark}'", max_results=50
        )
    )
