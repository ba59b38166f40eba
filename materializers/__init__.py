"""How each type of artifact is stored, loaded and drawn. Importing the package registers them with ZenML."""

from materializers.checkpoint import CheckpointMaterializer
from materializers.documents import (
    GateMaterializer,
    ImportanceMaterializer,
    ScoresMaterializer,
    TuningMaterializer,
)
from materializers.selfdata import SelfDataMaterializer

__all__ = [
    "CheckpointMaterializer",
    "GateMaterializer",
    "ImportanceMaterializer",
    "ScoresMaterializer",
    "SelfDataMaterializer",
    "TuningMaterializer",
]
