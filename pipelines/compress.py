"""The main pipeline: prune, let the unpruned model rewrite, check, tune, evaluate, merge, register."""

from zenml import pipeline
from zenml.enums import ExecutionMode

import steps
from pipelines.tuning import fine_tune
from regrow.config import CompressConfig, DatasetConfig
from regrow.evaluate import EvaluateSpec
from regrow.importance import ImportanceSpec
from regrow.merge import MergeSpec
from regrow.prune import PruneSpec
from regrow.quality import GateSpec
from regrow.registry import RegistrySpec
from regrow.selfdata import SelfDataSpec, ShiftSpec
from regrow.source import DatasetSpec, ModelSpec, TextSpec
from regrow.tune.recipe import Recipe, needs_teacher


# The first failure ends the run with its own error: data that fails the gate must not cost a GPU elsewhere.
@pipeline(execution_mode=ExecutionMode.FAIL_FAST)
def compress(
    model: ModelSpec,
    calibration: TextSpec,
    importance: ImportanceSpec,
    prune: PruneSpec,
    datasets: list[DatasetConfig],
    self_data: SelfDataSpec,
    gate: GateSpec,
    shift: ShiftSpec,
    tune: Recipe,
    evaluation: EvaluateSpec,
    merge: MergeSpec,
    registry: RegistrySpec,
    tune_pods: int = 1,
) -> None:
    """Compress a model; one branch of data and tuning for each dataset, each tuned by `tune_pods` pods."""
    base = steps.load_model(model)
    ranking = steps.compute_layer_importance(base, calibration, importance)
    pruned, plan = steps.prune(base, ranking, prune)
    data, gates, shifts, tuned, tunings = [], [], [], [], []
    for dataset in datasets:
        name = dataset.name
        records = steps.generate_self_data(
            base, source_of(dataset), dataset.self_data or self_data, id=f"generate_self_data_{name}"
        )
        accepted, verdict = steps.validate_data(
            records, base, name, dataset.gate or gate, evaluation, id=f"validate_data_{name}"
        )
        recipe = dataset.tune or tune
        teacher = base if needs_teacher(recipe) else None
        model_, record = fine_tune(
            pruned, accepted, name, recipe, teacher, id=f"fine_tune_{name}", pods=tune_pods
        )
        data.append(records)
        gates.append(verdict)
        shifts.append(steps.measure_shift(accepted, base, name, shift, id=f"measure_shift_{name}"))
        tuned.append(model_)
        tunings.append(record)
    merged, merging = steps.merge(tuned, merge, pruned)
    names = ["base", "pruned", *(f"tuned-{dataset.name}" for dataset in datasets), "merged"]
    models = [base, pruned, *tuned, merged]
    scores = [
        steps.evaluate(one, name, evaluation, id=f"evaluate_{name}")
        for name, one in zip(names, models, strict=True)
    ]
    drifts = [
        steps.measure_drift(base, one, name, evaluation, id=f"measure_drift_{name}")
        for name, one in zip(names[1:], models[1:], strict=True)
        if evaluation.answers
    ]
    # A tuned or merged model is as fast as the pruned one: only that is timed.
    timed = evaluation.speed or evaluation.draft
    measures = steps.measure_speed(base, pruned, evaluation) if timed else None
    config = CompressConfig(
        model=model, calibration=calibration, importance=importance, prune=prune, datasets=datasets,
        self_data=self_data, gate=gate, shift=shift, tune=tune, evaluation=evaluation, merge=merge, registry=registry,
    )  # fmt: skip
    steps.register(
        models, scores, ranking, plan, data, gates, shifts, tunings, merging, registry,
        config.model_dump(mode="json"), drifts, measures,
    )  # fmt: skip


def source_of(dataset: DatasetConfig) -> DatasetSpec:
    """Only what says which records: changing a recipe must not generate the data again."""
    return DatasetSpec.model_validate(dataset.model_dump(include=set(DatasetSpec.model_fields)))
