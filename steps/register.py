"""The end of a run: the best candidate in both registries, and the account of everything that led to it."""

from typing import Annotated, Any

import mlflow
from zenml import get_step_context, log_metadata, step
from zenml.types import HTMLString

from regrow import report
from regrow.checkpoint import Checkpoint
from regrow.evaluate.scores import Scores
from regrow.files import canonical_digest
from regrow.importance import LayerImportance
from regrow.prune import PrunePlan
from regrow.quality import GateResult
from regrow.registry import Registered, RegistrySpec
from regrow.registry import register as register_model
from regrow.selfdata import SelfData, Shift
from regrow.summary import best_candidate, summarise
from regrow.tune.record import TuningRecord
from steps.accounts import usage
from steps.tracking import log_stage
from steps.workspace import measured


@step(experiment_tracker=True, enable_cache=False)
def register(
    models: list[Checkpoint],
    scores: list[Scores],
    importance: LayerImportance,
    plan: PrunePlan,
    data: list[SelfData],
    gates: list[GateResult],
    shifts: list[Shift],
    tunings: list[TuningRecord],
    merging: dict[str, Any],
    spec: RegistrySpec,
    config: dict[str, Any],
) -> tuple[
    Annotated[Registered, "registered"], Annotated[dict[str, Any], "summary"], Annotated[HTMLString, "report"]
]:
    """Register the best of the candidates (regrow.registry) and tell the whole run (regrow.report).

    `models` and `scores` are in one order: base, pruned, then the candidates.
    """
    with measured():
        # Complete the MLflow run with the stages that ZenML took from its cache.
        log_stage("load_model", models[0])
        log_stage("compute_layer_importance", importance)
        log_stage("prune", plan, models[1])
        for own, gate, shift, tuning in zip(data, gates, shifts, tunings, strict=True):
            log_stage(f"generate_self_data.{gate.dataset}", own)
            log_stage(f"validate_data.{gate.dataset}", gate)
            log_stage(f"measure_shift.{shift.dataset}", shift)
            log_stage(f"fine_tune.{tuning.dataset}", tuning)
        for score in scores:
            log_stage(f"evaluate.{score.name}", score)
        log_stage("merge", merging, models[-1])
        best = best_candidate(scores[2:], scores[0])
        chosen = models[scores.index(best)]
        tags = _tags(best, models, scores, plan, gates, config)
        run = mlflow.active_run()
        metrics = {"recovery": best.mean / scores[0].mean} if best.scores else {}
        registered = register_model(
            chosen, spec, tags=tags, metrics=metrics, run_id=run.info.run_id if run else None
        )
        seconds, peak = usage()
        pairs = list(zip(models, scores, strict=True))
        summary = summarise(pairs, data, gates, shifts, registered, seconds=seconds, peak_memory_bytes=peak)
        page = report.run_page(summary, importance, plan, data, gates, shifts, tunings, merging, config)
        log_metadata(
            tags | {"mlflow_version": registered.version, "mlflow_uri": registered.uri}, infer_model=True
        )
        get_step_context().model.set_stage("staging", force=True)
        if run:
            mlflow.log_dict(summary, "summary.json")
            mlflow.log_text(page, "report.html")
    return registered, summary, HTMLString(page)


def _tags(
    best: Scores,
    models: list[Checkpoint],
    scores: list[Scores],
    plan: PrunePlan,
    gates: list[GateResult],
    config: dict[str, Any],
) -> dict[str, str]:
    """The digests that tie the version to what it was made from."""
    context = get_step_context()
    return {
        "regrow.digest": best.digest,
        "regrow.candidate": best.name,
        "regrow.base": models[0].digest,
        "regrow.pruned": models[1].digest,
        "regrow.plan": canonical_digest(plan.model_dump(mode="json")),
        "regrow.config": canonical_digest(config),
        **{f"regrow.data.{gate.dataset}": gate.digest for gate in gates},
        "regrow.scores": canonical_digest([one.summary() for one in scores]),
        "zenml.run": str(context.pipeline_run.id),
        "zenml.model_version": str(context.model.version),
    }
