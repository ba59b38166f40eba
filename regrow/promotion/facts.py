"""What the registry holds on a version: its files, scores, data gates and tags."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from regrow.errors import InputError
from regrow.promotion.record import Placed
from regrow.registry.journal import PENDING_TAG
from regrow.registry.licences import LicenceChain, normal
from regrow.registry.names import (
    DATA_PREFIX,
    DIGEST_TAG,
    DOCUMENTS,
    LICENCE_TAG,
    LICENCES_TAG,
    RUN_TAG,
    SCORES_TAG,
    ZENML_TAG,
    first_line,
    place_of,
)
from regrow.registry.server import folders_of, model_of, read_text

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from regrow.evaluate.scores import Scores
    from regrow.quality import GateResult

CANDIDATE_TAG = "regrow.candidate"
BASE_TAG = "regrow.base"


@dataclass(frozen=True)
class VersionFacts:
    """A registered version."""

    client: "MlflowClient"
    name: str
    version: str
    run_id: str | None
    tags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, client: "MlflowClient", name: str, version: str) -> "VersionFacts":
        """Look a version up.

        Args:
            client: of the registry.
            name: registered model.
            version: its number, or `@alias`.

        Raises:
            InputError: there is no such version.
        """
        from mlflow.exceptions import MlflowException

        try:
            if version.startswith("@"):
                found = client.get_model_version_by_alias(name, version[1:])
            else:
                found = client.get_model_version(name, version)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            raise InputError(f"{name} {version}: no such version in MLflow ({first_line(error)})") from None
        if PENDING_TAG in found.tags:
            raise InputError(
                f"{name} version {found.version}: registering it was not finished; "
                "register it again, which completes it"
            )
        return cls(client, name, str(found.version), found.run_id or None, dict(found.tags))

    @property
    def digest(self) -> str:
        """The digest that it was registered with; empty if it was not registered by regrow."""
        return self.tags.get(DIGEST_TAG, "")

    @property
    def placed(self) -> Placed:
        """Number and digest, for the record."""
        return Placed(version=self.version, digest=self.digest)

    @property
    def zenml(self) -> str | None:
        """Its version in ZenML; None if it was registered without ZenML."""
        return self.tags.get(ZENML_TAG)

    @property
    def licences(self) -> dict[str, str | None]:
        """Licence by name of the base and of each dataset; None where it is not known."""
        chain = LicenceChain.from_tag(self.tags.get(LICENCES_TAG))
        found = {
            link.name if link.name == link.kind else f"{link.kind} {link.name}": link.licence
            for link in chain.links
        }
        if not found and (said := normal(self.tags.get(LICENCE_TAG))):
            return {"model": said}
        return found

    def model(self) -> AbstractContextManager[Path]:
        """Give the folder with the version's MLflow model, fetched if it is not on this machine.

        Raises:
            InputError: the files cannot be had, or are no MLflow model.
        """
        return model_of(self.client, self.name, self.version)

    def scores(self) -> "Scores | None":
        """The version's evaluation in its MLflow runs: the one it was registered with; None if there is none."""
        from regrow.lineage.values import scores_digest

        named, stated = self.tags.get(CANDIDATE_TAG), self.tags.get(SCORES_TAG)
        stages = sorted(self._folders("evaluate."), key=lambda one: one != f"evaluate.{named}")
        places = [
            *(f"{stage}/scores.json" for stage in stages),
            f"{place_of(DOCUMENTS, self.digest)}/scores.json",
        ]
        found = [
            scores
            for run in self.runs
            for place in places
            if (scores := self._scores(place, run)) is not None and scores.digest == self.digest
        ]
        # A model that was evaluated again has several; of none that fits, the gate says so.
        return next((one for one in found if scores_digest(one) == stated), found[0] if found else None)

    def base_scores(self) -> "Scores | None":
        """The evaluation of the unpruned model in the same runs; None if there is none."""
        base = self.tags.get(BASE_TAG)
        for run in self.runs:
            found = self._scores("evaluate.base/scores.json", run)
            if found is not None and (base is None or found.digest == base):
                return found
        return None

    def data(self) -> dict[str, str]:
        """Digest by name of the sets that it was tuned on."""
        return {
            key.removeprefix(DATA_PREFIX): value
            for key, value in self.tags.items()
            if key.startswith(DATA_PREFIX)
        }

    def data_gate(self, dataset: str) -> "tuple[GateResult, str] | None":
        """The data gate's verdict on a set, the newest, and its digest; None if no run has one."""
        from regrow.quality import GateResult
        from regrow.quality.gate import verdict_digest

        texts = (read_text(self.client, run, f"validate_data.{dataset}/gate.json") for run in self.runs)
        text = next((one for one in texts if one is not None), None)
        try:
            return (GateResult.model_validate_json(text), verdict_digest(text)) if text is not None else None
        except ValidationError:
            return None

    @property
    def runs(self) -> list[str]:
        """MLflow runs that hold what belongs to it: the one that registered it last, then the first."""
        return list(dict.fromkeys(run for run in (self.tags.get(RUN_TAG), self.run_id) if run))

    def _scores(self, path: str, run: str) -> "Scores | None":
        from regrow.evaluate.scores import Scores

        text = read_text(self.client, run, path)
        try:
            return Scores.model_validate_json(text) if text is not None else None
        except ValidationError:
            return None

    def _folders(self, prefix: str) -> list[str]:
        found = {path for run in self.runs for path in folders_of(self.client, run)}
        return sorted(path for path in found if path.startswith(prefix))
