"""The other registry: stages of a model's versions in ZenML, as a small protocol.

`regrow` does not import ZenML; `infra.stages.ZenStages` is the implementation.
"""

from typing import Literal, Protocol

from regrow.promotion.record import Target

Stage = Literal["none", "staging", "production", "archived"]
STAGE_OF: dict[Target, Stage] = {"staging": "staging", "champion": "production"}


class StageMover(Protocol):
    """The versions of one model and their stages."""

    def stage(self, version: str) -> str:
        """Return the stage of a version.

        Raises:
            InputError: there is no such version.
        """

    def holder(self, stage: str) -> str | None:
        """Return the version in stage `staging` or `production`, if one is."""

    def move(self, version: str, stage: str) -> None:
        """Put a version into a stage; who holds `staging` or `production` makes room and is archived."""
