"""Results that are small documents: JSON in the store, a page in the dashboard."""

from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import BaseModel
from zenml.enums import ArtifactType, VisualizationType
from zenml.materializers.pydantic_materializer import PydanticMaterializer

from regrow import report
from regrow.evaluate import Drift, Measures
from regrow.evaluate.scores import Scores
from regrow.importance import LayerImportance
from regrow.selfdata import Shift
from regrow.study import StudyResult
from regrow.tune.record import TuningRecord


class _Document(PydanticMaterializer):
    """A pydantic model with a page that draws it."""

    SKIP_REGISTRATION: ClassVar[bool] = True
    # Any signature: each document is drawn from its own type.
    draw: ClassVar[Callable[..., str]]

    def save_visualizations(self, data: BaseModel) -> dict[str, VisualizationType]:
        """Write the page beside the JSON."""
        path = f"{self.uri}/page.html"
        with self.artifact_store.open(path, "w") as stream:
            stream.write(type(self).draw(data))
        return {path: VisualizationType.HTML}

    def extract_metadata(self, data: BaseModel) -> dict[str, Any]:
        """Nothing: steps log the facts that matter."""
        return {}


class ImportanceMaterializer(_Document):
    """Layer importance, drawn as a heatmap of block size against start."""

    SKIP_REGISTRATION: ClassVar[bool] = False
    ASSOCIATED_TYPES: ClassVar[tuple[type, ...]] = (LayerImportance,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA_ANALYSIS
    draw = staticmethod(report.importance_page)


class ShiftMaterializer(_Document):
    """Rewrites against references under the unpruned model, drawn as histograms."""

    SKIP_REGISTRATION: ClassVar[bool] = False
    ASSOCIATED_TYPES: ClassVar[tuple[type, ...]] = (Shift,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA_ANALYSIS
    draw = staticmethod(report.shift_page)


class TuningMaterializer(_Document):
    """The record of a tuning run, drawn as its loss curve."""

    SKIP_REGISTRATION: ClassVar[bool] = False
    ASSOCIATED_TYPES: ClassVar[tuple[type, ...]] = (TuningRecord,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA_ANALYSIS
    draw = staticmethod(report.tuning_page)


class ScoresMaterializer(_Document):
    """An evaluation, drawn as its table of scores."""

    SKIP_REGISTRATION: ClassVar[bool] = False
    ASSOCIATED_TYPES: ClassVar[tuple[type, ...]] = (Scores,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA_ANALYSIS
    draw = staticmethod(report.scores_page)


class DriftMaterializer(_Document):
    """A model against the unpruned one, drawn as tables and a histogram."""

    SKIP_REGISTRATION: ClassVar[bool] = False
    ASSOCIATED_TYPES: ClassVar[tuple[type, ...]] = (Drift,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA_ANALYSIS
    draw = staticmethod(report.drift_page)


class MeasuresMaterializer(_Document):
    """Drift, measured cost and drafting of models, drawn as tables."""

    SKIP_REGISTRATION: ClassVar[bool] = False
    ASSOCIATED_TYPES: ClassVar[tuple[type, ...]] = (Measures,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA_ANALYSIS
    draw = staticmethod(report.measures_page)


class StudyMaterializer(_Document):
    """A study, drawn as its report."""

    SKIP_REGISTRATION: ClassVar[bool] = False
    ASSOCIATED_TYPES: ClassVar[tuple[type, ...]] = (StudyResult,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA_ANALYSIS
    draw = staticmethod(report.study_page)
