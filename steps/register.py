"""The end of a run: its candidates in the registries, and the account of everything that led to them."""

from pathlib import Path
from typing import Annotated, Any

import mlflow
from pydantic import BaseModel
from zenml import get_step_context, log_metadata, step
from zenml.types import HTMLString

from regrow import report
from regrow.checkpoint import Checkpoint
from regrow.evaluate import Drift, Measures
from regrow.evaluate.scores import Scores
from regrow.files import canonical_digest
from regrow.importance import LayerImportance
from regrow.lineage import chain
from regrow.lineage.values import scores_digest, value_digest
from regrow.prune import PrunePlan
from regrow.quality import GateResult
from regrow.registry import Registered, RegistrySpec
from regrow.registry import register as register_model
from regrow.registry.names import ZENML_TAG, alias_of
from regrow.selfdata import SelfData, Shift
from regrow.summary import best_candidate, summarise
from regrow.tune.record import TuningRecord
from steps import cost, provenance
from steps.accounts import usage
from steps.tracking import log_stage
from steps.workspace import clear_work, fresh, measured, work_dir


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
    drifts: list[Drift],
    measures: Measures | None = None,
) -> tuple[
    Annotated[Registered, "registered"], Annotated[dict[str, Any], "summary"], Annotated[HTMLString, "report"]
]:
    """Register the candidates, the best of them in ZenML too (regrow.registry), and tell the whole run (regrow.report).

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
        for drift in drifts:
            log_stage(f"measure_drift.{drift.name}", drift)
        if measures:
            log_stage("measure_speed", measures)
        log_stage("merge", merging, models[-1])
        best = best_candidate(scores[2:], scores[0])
        order = [one for one in scores[2:] if one is not best and spec.candidates == "all"] + [best]
        folders = [models[scores.index(one)].folder for one in order]
        provenance.log_chain(*folders, _stated(importance, *scores, *shifts, *drifts, measures))
        # The best one comes last: the run's own `recovery` is its, and so is the highest number of new versions.
        versions = {}
        for score in order:
            model = models[scores.index(score)]
            tags = _tags(score, models, plan, _trained_on(model, gates), config)
            if score is best:
                tags[ZENML_TAG] = str(get_step_context().model.version)
            documents = {"config": config, "plan": plan, "scores": score}
            aliases = [alias_of(score.name)] if spec.candidates == "all" else []
            for alias in [*aliases, spec.alias] if score is best else aliases:
                named = spec.model_copy(update={"alias": alias})
                registered = _register(model, named, score, scores[0], tags, documents)
            versions[score.name] = registered.version
        seconds, peak = usage()
        pairs = list(zip(models, scores, strict=True))
        found = (measures or Measures()).model_copy(update={"drifts": tuple(drifts)})
        summary = summarise(
            pairs, data, gates, shifts, found, registered, versions, seconds=seconds, peak_memory_bytes=peak
        )
        rows = cost.account(cost.of_pods(tunings))
        cost.log_account(rows)
        summary["cost"] = {"stages": rows, "total": cost.total(rows)}
        page = report.run_page(
            summary, importance, plan, data, gates, shifts, tunings, merging, config,
            scores=scores, drifts=drifts, speeds=found.speeds, speculation=next(iter(found.drafts), None),
        )  # fmt: skip
        log_metadata(
            registered.facts | {"mlflow_version": registered.version, "mlflow_uri": registered.uri},
            infer_model=True,
        )
        if mlflow.active_run():
            mlflow.log_dict(summary, "summary.json")
            mlflow.log_text(page, "report.html")
    clear_work(str(get_step_context().pipeline_run.id))
    return registered, summary, HTMLString(page)


def _register(
    model: Checkpoint,
    spec: RegistrySpec,
    score: Scores,
    base: Scores,
    tags: dict[str, str],
    documents: dict[str, Any],
) -> Registered:
    run = mlflow.active_run()
    return register_model(
        model,
        spec,
        tags=tags,
        metrics={"recovery": score.mean / base.mean} if score.scores else {},
        run_id=run.info.run_id if run else None,
        stored=_stored(model),
        documents=documents,
    )


def _stored(model: Checkpoint) -> str | None:
    """Return where the artifact store keeps a model that came in: the folder that is an MLflow model."""
    for artifact in get_step_context().step_run.inputs["models"]:
        if artifact.content_hash == model.digest:
            return str(artifact.uri)
    return None


def _stated(*values: BaseModel | None) -> Path:
    """Collect the statements about values of this run."""
    digests = [value_digest(one) for one in values if one is not None]
    return provenance.fetch(digests, fresh(work_dir() / "stated"))


def _trained_on(model: Checkpoint, gates: list[GateResult]) -> list[GateResult]:
    """Return the verdicts on the sets that went into a model, by the statements that it carries."""
    used = {one.sha256 for statement in chain(model.folder) for one in statement.materials}
    return [gate for gate in gates if gate.digest in used]


def _tags(
    score: Scores,
    models: list[Checkpoint],
    plan: PrunePlan,
    gates: list[GateResult],
    config: dict[str, Any],
) -> dict[str, str]:
    """The digests that tie the version to what it was made from."""
    return {
        "regrow.digest": score.digest,
        "regrow.candidate": score.name,
        "regrow.base": models[0].digest,
        "regrow.pruned": models[1].digest,
        "regrow.plan": canonical_digest(plan.model_dump(mode="json")),
        "regrow.config": canonical_digest(config),
        **{f"regrow.data.{gate.dataset}": gate.digest for gate in gates},
        "regrow.scores": scores_digest(score),
        "zenml.run": str(get_step_context().pipeline_run.id),
    }
