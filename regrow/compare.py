"""What each criterion's choice really does to a model: the pruned models, scored side by side.

A criterion ranks before the cut; only the cut model tells what it lost. Every choice is written as a checkpoint,
evaluated and removed again. Results are kept by the checkpoint's digest, so an interrupted comparison continues,
and two criteria that choose the same blocks are evaluated once.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.evaluate import EvaluateSpec, Scores, evaluate, recovery
from regrow.files import write_json
from regrow.importance import Criterion, LayerImportance
from regrow.prune import PrunePlan, PruneSpec, apply, make_plan
from regrow.prune.size import human, parameters

Width = Literal["neurons", "groups", "channels", "width"]


class Damage(BaseModel):
    """One choice and what it did."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    size: int = Field(description="blocks removed; for width, the number whose parameters it matches")
    choice: str = Field(description="the criterion, or the kind of width")
    removed: str = Field(description="blocks removed, half-open ranges, or the units that stay")
    parameters: int = Field(description="of the pruned model")
    perplexity: float | None = Field(description="of held-out text; null if the suite has none")
    scores: dict[str, float] = Field(description="by task")
    recovery: float | None = Field(description="mean score over the unpruned model's; null without tasks")


class Comparison(BaseModel):
    """The unpruned model and every choice."""

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="constants")

    model_digest: str
    base: Damage
    rows: list[Damage]

    def table(self) -> str:
        """Lay out as a Markdown table, by size and perplexity."""
        tasks = list(self.base.scores)
        head = ["blocks", "chosen by", "what goes", "parameters", "perplexity", *tasks, "recovery"]
        lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
        order = sorted(self.rows, key=lambda row: (row.size, row.perplexity or 0))
        for row in [self.base, *order]:
            cells = [
                str(row.size),
                row.choice,
                row.removed,
                human(row.parameters),
                "" if row.perplexity is None else f"{row.perplexity:,.1f}",
                *(f"{100 * row.scores[task]:.1f}" for task in tasks),
                "" if row.recovery is None else f"{100 * row.recovery:.1f} %",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines) + "\n"


def compare(
    base: Checkpoint,
    importance: LayerImportance,
    suite: EvaluateSpec,
    out: Path,
    *,
    sizes: Sequence[int],
    criteria: Sequence[Criterion],
    widths: Sequence[Width] = (),
    seeds: Sequence[int] = (0,),
) -> Comparison:
    """Prune by every criterion at every size, and evaluate.

    Args:
        base: the unpruned model.
        importance: its measurement, with every criterion that is compared.
        suite: held-out text and tasks.
        out: folder for comparison.json, comparison.md and finished evaluations.
        sizes: numbers of blocks.
        criteria: what chooses blocks.
        widths: kinds of width, pruned to the parameters that removing so many blocks leaves.
        seeds: of the criterion random, a row each.

    Raises:
        InputError: a criterion was not measured, a size does not fit, or the suite cannot be run.
    """
    wanted = list(_specs(sizes, criteria, widths, seeds))
    # Every plan is made before anything is evaluated: what was not measured must not show after an hour.
    plans = [(size, name, _plan(base, importance, size, spec)) for size, name, spec in wanted]
    scores = evaluate("base", base, suite, out / "evaluations")
    nothing = Damage(
        size=0,
        choice="unpruned",
        removed="",
        parameters=base.parameters,
        recovery=1.0 if scores.scores else None,
        **_numbers(scores),
    )
    rows = [
        _damage(base, scores, size, name, plan, suite, out)
        for size, name, plan in tqdm(plans, desc="compare", unit="model")
    ]
    result = Comparison(model_digest=base.digest, base=nothing, rows=rows)
    write_json(out / "comparison.json", result.model_dump(mode="json"))
    (out / "comparison.md").write_text(result.table(), encoding="utf-8")
    return result


def _specs(
    sizes: Sequence[int], criteria: Sequence[Criterion], widths: Sequence[Width], seeds: Sequence[int]
) -> Iterator[tuple[int, str, PruneSpec | Width]]:
    for size in sizes:
        for criterion in criteria:
            if criterion != "random":
                yield size, criterion, PruneSpec(blocks=size, criterion=criterion)
                continue
            for seed in seeds:
                yield size, f"random, seed {seed}", PruneSpec(blocks=size, criterion="random", seed=seed)
        for width in widths:
            yield size, width if width != "width" else "neurons and channels", width


def _plan(base: Checkpoint, importance: LayerImportance, size: int, spec: PruneSpec | Width) -> PrunePlan:
    if isinstance(spec, PruneSpec):
        return make_plan(base, spec, importance)
    if size >= base.blocks:
        raise InputError(f"compare: {size} of {base.blocks} blocks cannot be matched; choose fewer")
    target = parameters(base.tensors(), base.blocks - size)
    return make_plan(base, PruneSpec(to_params=target, by=spec), importance)


def _damage(
    base: Checkpoint,
    unpruned: Scores,
    size: int,
    name: str,
    plan: PrunePlan,
    suite: EvaluateSpec,
    out: Path,
) -> Damage:
    folder = out / "pruned"
    shutil.rmtree(folder, ignore_errors=True)
    pruned = apply(base, plan, folder)
    try:
        # Weights and configuration decide: two criteria that choose the same blocks differ in the card alone.
        (folder / "README.md").unlink()
        (folder / "plan.json").unlink()
        scores = evaluate("pruned", Checkpoint.open(folder), suite, out / "evaluations")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    summary = plan.summary()
    kept = ", ".join(
        f"{units.count} of {units.of} {name}"
        for name in ("neurons", "groups", "channels")
        if (units := getattr(plan, name))
    )
    return Damage(
        size=size,
        choice=name,
        removed=summary["removed_blocks"] or f"keeps {kept}",
        parameters=pruned.parameters,
        recovery=recovery(scores, unpruned) if scores.scores else None,
        **_numbers(scores),
    )


def _numbers(scores: Scores) -> dict[str, Any]:
    return {
        "perplexity": scores.perplexity,
        "scores": {name: score.value for name, score in scores.scores.items()},
    }
