"""What a model can do."""

from datetime import UTC, datetime
from typing import Annotated

from zenml import step

from regrow import evaluate as evaluation
from regrow.checkpoint import Checkpoint
from regrow.evaluate import EvaluateSpec, harness, tasks
from regrow.evaluate.scores import Scores
from regrow.lineage.values import state_scores
from steps import provenance
from steps.caching import depends_on
from steps.tracking import log_stage
from steps.workspace import cache_folder, measured


@step(experiment_tracker=True, cache_policy=depends_on(harness, tasks))
def evaluate(model: Checkpoint, name: str, spec: EvaluateSpec) -> Annotated[Scores, "scores"]:
    """Score a model on tasks and held-out text, with the same settings as every other (regrow.evaluate)."""
    with measured():
        started = datetime.now(UTC)
        scores = evaluation.evaluate(name, model, spec, cache_folder() / "evaluation")
        folder = provenance.scratch()
        provenance.keep(state_scores(scores, model, folder, started=started), folder)
        log_stage(f"evaluate.{name}", scores)
    return scores
