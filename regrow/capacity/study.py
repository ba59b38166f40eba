"""The steps of a study, each with what it waits for and what it needs, as pipelines/study.py wires them."""

import re
from collections.abc import Callable
from pathlib import Path

from regrow.capacity import files
from regrow.capacity.assume import Assumptions
from regrow.capacity.device import Device
from regrow.capacity.forward import Data
from regrow.capacity.graph import Graph, Step
from regrow.capacity.paper import Paper, cut
from regrow.capacity.requests import Request
from regrow.capacity.training import fine_tune
from regrow.study import Arm, Cell, StudyConfig


def study_steps(
    base: Paper,
    config: StudyConfig,
    device: Device,
    assumed: Assumptions,
    folder: Path,
    *,
    asked: Callable[[str, str], Request],
) -> list[Step]:
    """Return the steps of a study; arguments as in `compress_steps`."""
    graph = Graph(base, config, device, assumed)
    sets = graph.branch(config)
    graph.evaluated("evaluate_base", base, "load_model")
    cuts = {}
    for blocks in config.blocks:
        cuts[blocks] = cut(base, config.cut(blocks), folder)
        graph.add(
            f"prune_{blocks}", "prune", ("load_model", "compute_layer_importance"),
            files.prune(base, cuts[blocks], config.cut(blocks)),
        )  # fmt: skip
    joined = _Joined(graph, sets)
    results = ["evaluate_base"]
    for cell, arm in config.cells():
        model = cuts[cell.blocks]
        made_by, records = _treated(graph, config, cell, arm, model, joined, asked)
        results += records
        results.append(graph.evaluated(_id("evaluate", cell.key), model, made_by))
        if config.evaluation.answers:
            results.append(graph.drifted(_id("drift", cell.key), model, made_by))
    graph.add("tabulate", "tabulate", tuple(dict.fromkeys(results)), files.small({}))
    return graph.steps


def _treated(
    graph: Graph,
    config: StudyConfig,
    cell: Cell,
    arm: Arm,
    pruned: Paper,
    joined: "_Joined",
    asked: Callable[[str, str], Request],
) -> tuple[str, list[str]]:
    """Append a cell's training; return the step that made its model, and those whose records are told."""
    parent = f"prune_{cell.blocks}"
    if arm.tune is None or cell.seed is None:
        return parent, []
    groups = [joined.names] if arm.data == "mixed" else [(name,) for name in joined.names]
    share = 1 / len(groups)
    recipe = config.recipe(arm, cell.seed, share=share)
    teacher = graph.base if config.teacher_needed(arm) else None
    made = []
    for group in groups:
        records = None if cell.records is None else round(share * cell.records)
        step, data = joined.set_of(group, records)
        key = cell.key if arm.data == "mixed" else f"{cell.key}:{group[0]}"
        after = (parent, step, *(("load_model",) if teacher else ()))
        name = _id("fine_tune", key)
        has = asked(name, "fine_tune")
        need = fine_tune(pruned, teacher, data, recipe, graph.device, gpus=has.gpus or None, pods=has.pods)
        made.append(graph.tuned(name, after, need, pruned, pods=has.pods, pruned=parent, data=step))
    if arm.data == "mixed":
        return made[0], made
    need = files.merge(dict.fromkeys(made, pruned), pruned, config.merge)
    merged = graph.add(_id("merge", cell.key), "merge", (*made, parent), need, pruned=parent)
    return merged, made


class _Joined:
    """Training sets, each made once for all arms."""

    def __init__(self, graph: Graph, sets: dict[str, Data]) -> None:
        self._graph, self._sets = graph, sets
        self._made: dict[tuple[tuple[str, ...], int | None], tuple[str, Data]] = {}
        self.names = tuple(sets)

    def set_of(self, names: tuple[str, ...], records: int | None) -> tuple[str, Data]:
        """Return the step that makes so many records of the named sets, and their sizes."""
        if (names, records) not in self._made:
            parts = [self._sets[name] for name in names]
            key = f"{'mixed' if len(names) > 1 else names[0]}-{'all' if records is None else records}"
            fetched = {f"validate_data_{name}": one.nbytes for name, one in zip(names, parts, strict=True)}
            data = _mixture(parts, records)
            need = files.small(fetched, data.nbytes)
            self._made[names, records] = (
                self._graph.add(_id("mix_data", key), "mix_data", tuple(fetched), need),
                data,
            )
        return self._made[names, records]


def _mixture(parts: list[Data], records: int | None) -> Data:
    """Return the sizes of sets together: means over their records."""
    whole = sum(one.records for one in parts)

    def mean(name: str) -> int:
        return round(sum(one.records * int(getattr(one, name)) for one in parts) / whole)

    return Data(
        records=min(records or whole, whole),
        instruction=mean("instruction"),
        reference=mean("reference"),
        response=mean("response"),
        template=mean("template"),
    )


def _id(step: str, key: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", f"{step}_{key}")
