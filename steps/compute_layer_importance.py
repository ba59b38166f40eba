"""Which blocks and units of width matter."""

from typing import Annotated

from zenml import step

from regrow import anatomy
from regrow import importance as layers
from regrow.checkpoint import Checkpoint
from regrow.importance import ImportanceSpec, LayerImportance
from regrow.source import TextSpec, read_texts
from steps.caching import depends_on
from steps.tracking import log_stage
from steps.workspace import measured, work_dir


@step(experiment_tracker=True, cache_policy=depends_on(layers, anatomy))
def compute_layer_importance(
    base: Checkpoint, calibration: TextSpec, importance: ImportanceSpec
) -> Annotated[LayerImportance, "importance"]:
    """Measure blocks, runs of blocks and units of width in one pass (regrow.importance)."""
    with measured():
        result = layers.compute(base, read_texts(calibration), importance, work_dir() / "passes")
        log_stage("compute_layer_importance", calibration, importance, result)
    return result
