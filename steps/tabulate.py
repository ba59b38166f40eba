"""A study's cells, put side by side."""

from typing import Annotated, Any

import mlflow
from zenml import get_step_context, step
from zenml.types import HTMLString

from regrow import report, study
from regrow.evaluate import Drift
from regrow.evaluate.scores import Scores
from regrow.study import Cell, StudyResult
from regrow.tune.record import TuningRecord
from steps.tracking import log_stage
from steps.workspace import clear_work, measured


@step(experiment_tracker=True, enable_cache=False)
def tabulate(
    cells: list[Cell],
    scores: list[Scores],
    drifts: list[Drift],
    tunings: list[TuningRecord],
    reference: str | None,
    config: dict[str, Any],
) -> tuple[Annotated[StudyResult, "study"], Annotated[HTMLString, "report"]]:
    """Compare arms over seeds and items (regrow.study), and tell the study (regrow.report).

    `scores` begin with the unpruned model's; then they and `drifts` are in the order of `cells`.
    """
    with measured():
        result = study.gather(
            cells, scores[0], scores[1:], drifts, tunings, reference=reference, config=config
        )
        log_stage("study", result)
        page = report.study_page(result)
        if mlflow.active_run():
            mlflow.log_dict(result.model_dump(mode="json"), "study.json")
            mlflow.log_text(page, "report.html")
    clear_work(str(get_step_context().pipeline_run.id))
    return result, HTMLString(page)
