"""ZenML's part of a promotion: the stages of a model's versions (regrow.promotion.StageMover).

Not among the steps: whoever only asks, as an audit does, need not import all of them, and torch with them.
"""

from typing import Any

from zenml.client import Client
from zenml.config.global_config import GlobalConfiguration
from zenml.models import ModelVersionResponse

from regrow.errors import InputError


def server() -> str:
    """Return the address of the server or database that ZenML is set to."""
    return str(GlobalConfiguration().store_configuration.url)


class ZenStages:
    """The versions of one model in the Model Control Plane."""

    def __init__(self, model: str) -> None:
        self._model = model

    def stage(self, version: str) -> str:
        """Return the stage of a version.

        Raises:
            InputError: ZenML has no such version.
        """
        return str(self._find(version).stage or "none")

    def holder(self, stage: str) -> str | None:
        """Return the version in a stage, if one is."""
        try:
            found = Client().list_model_versions(model_name_or_id=self._model, stage=stage).items
        except KeyError:  # ZenML does not know the model
            return None
        return str(found[0].name) if found else None

    def move(self, version: str, stage: str) -> None:
        """Put a version into a stage; ZenML archives its holder in the same transaction."""
        self._find(version).set_stage(stage, force=True)

    def facts(self, version: str) -> dict[str, Any]:
        """Return a version's metadata and stage, for the comparison with MLflow.

        Raises:
            InputError: ZenML has no such version.
        """
        found = self._find(version)
        return {**found.run_metadata, "stage": str(found.stage or "none")}

    def _find(self, version: str) -> ModelVersionResponse:
        try:
            return Client().get_model_version(self._model, version)
        except KeyError:
            raise InputError(
                f"ZenML has no version {version} of the model {self._model}, which the MLflow version names: it was "
                "deleted there, or this is not the ZenML server and project that it was made with"
            ) from None
