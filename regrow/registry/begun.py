"""MLflow runs into which a call has begun to write what belongs to a checkpoint, and what dead calls left in them.

Such a run has a mark, which names the registered model, the checkpoint, and the call. What a call that may be at work
has begun is left alone; what a dead one left is used, or taken away.
"""

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from regrow.files import sweep
from regrow.processes import AT_WORK, Process, seconds_left, this_process
from regrow.registry.names import FILES, first_line, place_of
from regrow.registry.server import local_path

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "regrow"
BEGUN_TAG = "regrow.registering"
# Of a call on another machine nobody can see whether it lives. Uploads take hours, and nothing waits for the clearing.
LEASE = 24 * 3600.0
_log = logging.getLogger(__name__)


class _Call(BaseModel):
    """Who has begun."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(description="name that no other call has")
    process: Process
    when: datetime
    lease: float = Field(description="seconds after which another host takes the call for dead")


class Runs:
    """The marked runs of one model and checkpoint, as a call sees them; the call is at work as long as the context."""

    def __init__(self, client: "MlflowClient", name: str, digest: str) -> None:
        self._client, self._name, self._digest = client, name, digest
        self._call = _Call(id=uuid4().hex, process=this_process(), when=datetime.now(UTC), lease=LEASE)

    def __enter__(self) -> Self:
        AT_WORK.add(self._call.id)
        return self

    def __exit__(self, *_: object) -> None:
        AT_WORK.discard(self._call.id)

    def mark(self, run: str) -> None:
        """Say of a run that this call writes into it."""
        self._client.set_tag(run, BEGUN_TAG, self._text)

    def take_or_make(self, said: list[str]) -> str:
        """Return a run that a dead call has begun, or a new one; either is marked as this call's.

        Args:
            said: gets a sentence if it is a dead call's.
        """
        found = self._client.get_experiment_by_name(EXPERIMENT)
        where = found.experiment_id if found else self._client.create_experiment(EXPERIMENT)
        for left in self._marked([where]):
            if not self._is_at_work(left):
                self.mark(left.info.run_id)
                said.append(f"went on in the MLflow run {left.info.run_id}, which an earlier call had begun")
                return str(left.info.run_id)
        made = self._client.create_run(where, run_name=f"register-{self._name}", tags={BEGUN_TAG: self._text})
        return str(made.info.run_id)

    def clear_away(self, run: str, said: list[str]) -> None:
        """Take the marks of this call and of dead ones from their runs, and files that no version points at.

        Args:
            run: the run of this call.
            said: gets a sentence for what dead calls had left.
        """
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        places = {self._client.get_run(run).info.experiment_id}
        places |= {experiment.experiment_id} if experiment else set()
        for left in self._marked(sorted(places)):
            run_id = left.info.run_id
            is_own = self._is_own(left)
            if not is_own and self._is_at_work(self._client.get_run(run_id)):
                continue
            if not self._client.search_model_versions(f"run_id = '{run_id}'") and self._remove(left):
                whose = (
                    "this call had copied, though another was quicker,"
                    if is_own
                    else "an earlier call had copied"
                )
                sentence = f"removed what {whose} into the MLflow run {run_id}"
                _log.info("%s", sentence) if is_own else said.append(sentence)
            if left.data.tags.get("mlflow.runName") == f"register-{self._name}":
                self._client.set_terminated(run_id)
            self._unmark(run_id)

    @property
    def _head(self) -> str:
        return f"{self._name} {self._digest}"

    @property
    def _text(self) -> str:
        return f"{self._head} {self._call.model_dump_json()}"

    def _remove(self, left: Any) -> bool:
        """Remove the checkpoint's files from a run; false if there are none, or the server does not let them go."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        uri, path = left.info.artifact_uri.rstrip("/"), place_of(FILES, self._digest)
        try:
            if target := local_path(f"{uri}/{path}"):
                sweep(target)
            store = get_artifact_repository(uri)
            if not store.list_artifacts(path):
                return False
            store.delete_artifacts(path)
        except Exception as error:  # a server may not let files be deleted; nothing depends on it
            _log.warning("%s/%s is of no use and could not be removed (%s)", uri, path, first_line(error))
            return False
        return True

    def _unmark(self, run: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.delete_tag(run, BEGUN_TAG)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # taken by another call at the same time
                raise

    def _marked(self, experiments: list[str]) -> list[Any]:
        """Return the runs with a mark about this model and checkpoint."""
        query = f"tags.`{BEGUN_TAG}` LIKE '{self._head}%'"
        found = self._client.search_runs(experiments, filter_string=query, max_results=50)
        return [one for one in found if f"{one.data.tags[BEGUN_TAG]} ".startswith(f"{self._head} ")]

    def _is_own(self, left: Any) -> bool:
        return (call := self._begun_by(left)) is not None and call.id == self._call.id

    def _is_at_work(self, left: Any) -> bool:
        """Whether the call that has marked a run last may live; an earlier regrow's marks name none."""
        call = self._begun_by(left)
        return call is not None and seconds_left(call.process, call.id, call.when, call.lease) > 0

    def _begun_by(self, left: Any) -> _Call | None:
        try:
            return _Call.model_validate_json(left.data.tags[BEGUN_TAG].removeprefix(self._head))
        except (KeyError, ValidationError):
            return None
