"""The study: arms x block sizes x sizes of the training set x seeds, over shared data and cuts."""

import re
from typing import Any

from zenml import pipeline
from zenml.enums import ExecutionMode

import steps
from pipelines.compress import source_of
from pipelines.tuning import fine_tune
from regrow.study import Arm, Cell, StudyConfig


# Cells need nothing of each other: an orchestrator that can runs them side by side, and after a failure the same
# command takes every finished step from the cache.
@pipeline(execution_mode=ExecutionMode.FAIL_FAST)
def study(config: StudyConfig, tune_pods: int = 1) -> None:
    """Run every cell, each tuned by `tune_pods` pods, and compare the arms."""
    base = steps.load_model(config.model)
    ranking = steps.compute_layer_importance(base, config.calibration, config.importance)
    data = _Data(base, config)
    scores = [steps.evaluate(base, "base", config.evaluation, id="evaluate_base")]
    drifts, tunings, cells = [], [], []
    cuts = {
        blocks: steps.prune(base, ranking, config.cut(blocks), id=f"prune_{blocks}")[0]
        for blocks in config.blocks
    }
    for cell, arm in config.cells():
        model, records = _treated(base, cuts[cell.blocks], data, cell, arm, config, tune_pods)
        cells.append(cell)
        tunings.extend(records)
        scores.append(steps.evaluate(model, cell.key, config.evaluation, id=_id("evaluate", cell.key)))
        if config.evaluation.answers:
            drift = steps.measure_drift(base, model, cell.key, config.evaluation, id=_id("drift", cell.key))
            drifts.append(drift)
    steps.tabulate(cells, scores, drifts, tunings, config.compared_with, config.model_dump(mode="json"))


class _Data:
    """The datasets, rewritten and checked once for all arms, and the training sets that are made of them."""

    def __init__(self, base: Any, config: StudyConfig) -> None:
        self._sets: dict[tuple[tuple[str, ...], int | None], Any] = {}
        self._accepted = {}
        for dataset in config.datasets:
            name = dataset.name
            records = steps.generate_self_data(
                base,
                source_of(dataset),
                dataset.self_data or config.self_data,
                id=f"generate_self_data_{name}",
            )
            self._accepted[name], _ = steps.validate_data(
                records,
                base,
                name,
                dataset.gate or config.gate,
                config.evaluation,
                id=f"validate_data_{name}",
            )
        self.names = tuple(self._accepted)

    def training_set(self, names: tuple[str, ...], records: int | None) -> Any:
        """Return so many records of the named datasets; every arm and seed is given the same ones."""
        if (names, records) not in self._sets:
            sets = [self._accepted[name] for name in names]
            key = f"{'mixed' if len(names) > 1 else names[0]}-{'all' if records is None else records}"
            self._sets[names, records] = steps.mix_data(sets, key, records, id=_id("mix_data", key))
        return self._sets[names, records]


def _treated(
    base: Any, pruned: Any, data: _Data, cell: Cell, arm: Arm, config: StudyConfig, pods: int
) -> tuple[Any, list[Any]]:
    """Return a cell's model, and the records of its training."""
    if arm.tune is None or cell.seed is None:
        return pruned, []
    teacher = base if config.teacher_needed(arm) else None
    groups = [data.names] if arm.data == "mixed" else [(name,) for name in data.names]
    share = 1 / len(groups)
    recipe = config.recipe(arm, cell.seed, share=share)
    models, records = [], []
    for names in groups:
        key = cell.key if arm.data == "mixed" else f"{cell.key}:{names[0]}"
        chosen = data.training_set(names, None if cell.records is None else round(share * cell.records))
        model, record = fine_tune(pruned, chosen, key, recipe, teacher, id=_id("fine_tune", key), pods=pods)
        models.append(model)
        records.append(record)
    if arm.data == "mixed":
        return models[0], records
    merged, _ = steps.merge(models, config.merge, pruned, id=_id("merge", cell.key))
    return merged, records


def _id(step: str, key: str) -> str:
    """Name a step; ZenML takes letters, digits and underscores everywhere."""
    return re.sub(r"[^A-Za-z0-9_]", "_", f"{step}_{key}")
