"""How each type of artifact is stored, loaded and drawn. Importing the package registers them with ZenML."""

from materializers.checkpoint import CheckpointMaterializer
from materializers.documents import (
    DriftMaterializer,
    ImportanceMaterializer,
    MeasuresMaterializer,
    ScoresMaterializer,
    ShiftMaterializer,
    StudyMaterializer,
    TuningMaterializer,
)
from materializers.gate import GateMaterializer
from materializers.selfdata import SelfDataMaterializer

__all__ = [
    "CheckpointMaterializer",
    "DriftMaterializer",
    "GateMaterializer",
    "ImportanceMaterializer",
    "MeasuresMaterializer",
    "ScoresMaterializer",
    "SelfDataMaterializer",
    "ShiftMaterializer",
    "StudyMaterializer",
    "TuningMaterializer",
]
