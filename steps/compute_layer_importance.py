"""Which blocks and units of width matter."""

from datetime import UTC, datetime
from typing import Annotated

from zenml import step

from regrow import anatomy
from regrow import importance as layers
from regrow.checkpoint import Checkpoint
from regrow.importance import ImportanceSpec, LayerImportance
from regrow.lineage.values import state_importance
from regrow.source import TextSpec, origin, read_texts
from steps import provenance
from steps.caching import depends_on
from steps.tracking import log_stage
from steps.workspace import measured, work_dir


@step(experiment_tracker=True, cache_policy=depends_on(layers, anatomy))
def compute_layer_importance(
    base: Checkpoint, calibration: TextSpec, importance: ImportanceSpec
) -> Annotated[LayerImportance, "importance"]:
    """Measure blocks, runs of blocks and units of width in one pass (regrow.importance)."""
    with measured():
        started = datetime.now(UTC)
        result = layers.compute(base, read_texts(calibration), importance, work_dir() / "passes")
        folder = provenance.scratch()
        stated = state_importance(
            result, base, importance, folder, calibration=origin(calibration), started=started
        )
        provenance.keep(stated, folder)
        log_stage("compute_layer_importance", calibration, importance, result)
    return result
