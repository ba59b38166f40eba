"""The steps of a run, each with what it waits for and what it needs.

The wiring is that of pipelines/compress.py; a test compares the two step by step.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from regrow.capacity import evaluation, files, forward
from regrow.capacity.assume import Assumptions
from regrow.capacity.device import Device
from regrow.capacity.forward import Data, data_of
from regrow.capacity.need import Need
from regrow.capacity.paper import Paper, cut
from regrow.capacity.requests import Request
from regrow.capacity.training import fine_tune
from regrow.config import CompressConfig, Ingredients
from regrow.evaluate.spec import EvaluateSpec
from regrow.tune.recipe import needs_teacher


@dataclass(frozen=True)
class Step:
    """One step: its name in the run, its function in steps/, the steps that it waits for, and what it needs."""

    name: str
    stage: str
    after: tuple[str, ...]
    need: Need


class Graph:
    """Collects steps in the order in which a pipeline calls them."""

    def __init__(self, base: Paper, config: Ingredients, device: Device, assumed: Assumptions) -> None:
        self.steps: list[Step] = []
        self.base, self.device, self.assumed = base, device, assumed
        self._evaluation: EvaluateSpec = config.evaluation
        self.add("load_model", "load_model", (), files.load_model(base, config.model))
        need = forward.importance(base, config.calibration, config.importance, device, assumed)
        self.add("compute_layer_importance", "compute_layer_importance", ("load_model",), need)

    def add(self, name: str, stage: str, after: tuple[str, ...], need: Need, **made_by: str) -> str:
        """Append a step; return its name.

        Args:
            name: of the step.
            stage: its function in steps/.
            after: steps that it waits for.
            need: what it needs.
            **made_by: the steps that made the artifacts which `need` calls base, pruned and data: the same artifact
                has the same name in all steps.
        """
        names = {"base": "load_model", "pruned": "prune"} | made_by
        fetched = {names.get(artifact, artifact): size for artifact, size in need.fetched.items()}
        self.steps.append(Step(name, stage, after, replace(need, fetched=fetched)))
        return name

    def branch(self, config: Ingredients) -> dict[str, Data]:
        """Append what rewrites and checks each dataset; return the sets."""
        found = {}
        for dataset in config.datasets:
            spec = dataset.self_data or config.self_data
            data = data_of(dataset, spec, self.assumed)
            wrote = self.add(
                f"generate_self_data_{dataset.name}", "generate_self_data", ("load_model",),
                forward.self_data(self.base, data, spec, self.device, self.assumed),
            )  # fmt: skip
            self.add(
                f"validate_data_{dataset.name}", "validate_data", (wrote, "load_model"),
                files.validate(self.base, data), data=wrote,
            )  # fmt: skip
            found[dataset.name] = data
        return found

    def tuned(
        self, step: str, after: tuple[str, ...], need: Need, tuned: Paper, *, pods: int, **made_by: str
    ) -> str:
        """Append the training of a model, with the steps around it where several pods share it (pipelines.tuning).

        Returns:
            The step whose output the model is.
        """
        if pods == 1:
            return self.add(step, "fine_tune", after, need, **made_by)
        laid_out = self.add(
            f"lay_out_{step}", "lay_out_tuning", after, files.lay_out(need.fetched), **made_by
        )
        self.add(step, "fine_tune", (laid_out,), replace(need, fetched={}, stored=0))
        return self.add(f"collect_{step}", "collect_tuning", (laid_out, step), files.collect(tuned))

    def evaluated(self, step: str, model: Paper, made_by: str) -> str:
        """Append the evaluation of a model."""
        need = evaluation.evaluate(model, made_by, self._evaluation, self.device, self.assumed)
        return self.add(step, "evaluate", (made_by,), need)

    def drifted(self, step: str, model: Paper, made_by: str) -> str:
        """Append the comparison of a model with the unpruned one."""
        need = evaluation.drift(self.base, model, made_by, self._evaluation, self.device, self.assumed)
        return self.add(step, "measure_drift", ("load_model", made_by), need)


def compress_steps(
    base: Paper,
    config: CompressConfig,
    device: Device,
    assumed: Assumptions,
    folder: Path,
    *,
    asked: Callable[[str, str], Request],
) -> list[Step]:
    """Return the steps of a run.

    Args:
        base: the unpruned model.
        config: of the run.
        device: what the steps compute on.
        assumed: sizes that the configuration does not say.
        folder: for configurations on paper.
        asked: what a step asks for, by its name and its function.
    """
    graph = Graph(base, config, device, assumed)
    pruned = cut(base, config.prune, folder)
    graph.add(
        "prune", "prune", ("load_model", "compute_layer_importance"), files.prune(base, pruned, config.prune)
    )
    sets = graph.branch(config)
    tuned: dict[str, str] = {}
    for dataset in config.datasets:
        name, recipe = dataset.name, dataset.tune or config.tune
        teacher = base if needs_teacher(recipe) else None
        after = ("prune", f"validate_data_{name}", *(("load_model",) if teacher else ()))
        has = asked(f"fine_tune_{name}", "fine_tune")
        need = fine_tune(pruned, teacher, sets[name], recipe, device, gpus=has.gpus or None, pods=has.pods)
        tuned[name] = graph.tuned(
            f"fine_tune_{name}", after, need, pruned, data=f"validate_data_{name}", pods=has.pods
        )
        graph.add(
            f"measure_shift_{name}", "measure_shift", (f"validate_data_{name}", "load_model"),
            forward.shift(base, sets[name], config.shift, device), data=f"validate_data_{name}",
        )  # fmt: skip
    need = files.merge(dict.fromkeys(tuned.values(), pruned), pruned, config.merge)
    graph.add("merge", "merge", (*tuned.values(), "prune"), need)
    models = {"base": ("load_model", base), "pruned": ("prune", pruned)}
    models |= {f"tuned-{name}": (made_by, pruned) for name, made_by in tuned.items()}
    models |= {"merged": ("merge", pruned)}
    scores = [
        graph.evaluated(f"evaluate_{name}", model, made_by) for name, (made_by, model) in models.items()
    ]
    others = list(models.items())[1:] if config.evaluation.answers else []
    drifts = [graph.drifted(f"measure_drift_{name}", model, made_by) for name, (made_by, model) in others]
    timed = []
    if config.evaluation.speed or config.evaluation.draft:
        need = evaluation.speed(base, pruned, config.evaluation, device, assumed)
        timed = [graph.add("measure_speed", "measure_speed", ("load_model", "prune"), need)]
    made = [made_by for made_by, _ in models.values()]
    figures = ["compute_layer_importance", *(f"{stage}_{name}" for name in sets for stage in _TOLD)]
    fetched = dict(models.values())
    graph.add(
        "register", "register", tuple(dict.fromkeys([*made, *scores, *figures, *drifts, *timed])),
        files.register(fetched),
    )  # fmt: skip
    return graph.steps


# Steps of a dataset's branch whose results `register` tells, beside those that make models.
_TOLD = ("generate_self_data", "validate_data", "measure_shift")
