"""From a specification and a measurement to a plan."""

from collections.abc import Callable
from dataclasses import replace

from regrow.anatomy import Anatomy, Widths, anatomy_of, check_family, stack_of, widths_of
from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.importance import LayerImportance, WidthScores
from regrow.importance.choose import choose_blocks, top_units
from regrow.prune.plan import KeptUnits, PrunePlan, make_consistent
from regrow.prune.size import candidates, closest, human, nearest, parameters
from regrow.prune.spec import PruneSpec


def make_plan(base: Checkpoint, spec: PruneSpec, importance: LayerImportance | None = None) -> PrunePlan:
    """Choose what is removed from a checkpoint.

    Args:
        base: the unpruned model; only its headers and configuration are read.
        spec: how much, and by which criterion.
        importance: the measurement of this very checkpoint; needed where it has to choose
            (`PruneSpec.needs_importance`).

    Raises:
        InputError: the choice does not fit the model, was not measured, or was measured on another model.
    """
    file = base.folder / "config.json"
    check_family(base.config, file)
    if importance and importance.model_digest != base.digest:
        raise InputError(
            f"{base.folder}: the importance was measured on the checkpoint {importance.model_digest[:12]}, this "
            f"one is {base.digest[:12]}; measure it again"
        )
    depth = base.blocks
    anatomy = anatomy_of(base.config)
    widths = widths_of(base.config, file) if anatomy else None
    target = spec.to_params or (round(spec.to_ratio * base.parameters) if spec.to_ratio else None)
    size = spec.blocks or 0
    if target and spec.by == "depth":
        size = _depth_for(base, spec, target, anatomy, widths)
    if spec.drop is not None:
        removed, score, criterion = spec.drop, _score_of(spec.drop, importance), "given"
    elif size:
        removed, score = choose_blocks(importance, depth, spec.criterion, size, spec.seed)
        criterion = spec.criterion
    else:
        removed, score, criterion = (), None, "none"
    if removed and removed[-1] >= depth:
        raise InputError(
            f"prune.drop: there is no block {removed[-1]}; the model has blocks 0 to {depth - 1}"
        )
    kept = tuple(block for block in range(depth) if block not in set(removed))
    new = _new_widths(base, spec, len(kept), target, anatomy, widths)
    return make_consistent(
        source_digest=base.digest,
        depth=depth,
        stack=stack_of(base.tensors(), depth, base.folder),
        blocks=kept,
        criterion=criterion,
        score=score,
        seed=spec.seed if criterion == "random" else None,
        **_units(widths, new, kept, importance.width if importance else None),
    )


def _score_of(removed: tuple[int, ...], importance: LayerImportance | None) -> float | None:
    """Return the angular distance over a run that a person chose."""
    run = tuple(range(removed[0], removed[0] + len(removed)))
    if importance is None or run != removed or removed[-1] >= importance.blocks:
        return None
    return importance.angular_distance[len(run) - 1][run[0]]


def _depth_for(
    base: Checkpoint, spec: PruneSpec, target: int, anatomy: Anatomy | None, widths: Widths | None
) -> int:
    """Return the number of blocks to remove that comes nearest to the target, after the widths that are given."""
    depth, tensors = base.blocks, base.tensors()
    given = _given(spec, widths)
    sizes = {removed: parameters(tensors, depth - removed, anatomy, given) for removed in range(depth)}
    _check_reachable(target, sizes[depth - 1], base.parameters)
    if not (size := closest(sizes, target)):
        raise InputError(
            f"prune: {human(target)} parameters are nearest to the unpruned model, which has "
            f"{human(base.parameters)}; a block has {human(sizes[0] - sizes[1])}, so choose "
            f"{human(sizes[1])} or less"
        )
    return int(size)


def _new_widths(
    base: Checkpoint,
    spec: PruneSpec,
    blocks: int,
    target: int | None,
    anatomy: Anatomy | None,
    widths: Widths | None,
) -> Widths | None:
    """Return the widths of the pruned model; None where they all stay."""
    by_width = target is not None and spec.by != "depth"
    if not by_width and spec.neurons is spec.groups is spec.channels is None:
        return None
    if anatomy is None or widths is None:
        raise InputError(
            f"{base.folder / 'config.json'}: only the depth of the architecture {base.config.get('model_type')!r} can "
            "be pruned; give blocks or drop"
        )
    new = _given(spec, widths)
    assert new is not None
    if by_width:
        assert target is not None
        tensors = base.tensors()
        sizes = {one: parameters(tensors, blocks, anatomy, one) for one in candidates(new, spec.by)}
        _check_reachable(target, min(sizes.values()), max(sizes.values()))
        new = nearest(sizes, target, widths) if spec.by == "width" else closest(sizes, target)
    if anatomy.heads_fill_channels and new.heads * new.head_dim != new.channels:
        raise InputError(
            f"prune: in the architecture {base.config.get('model_type')!r} the heads fill the channels; keep "
            f"{new.heads} groups together with {new.heads * new.head_dim} channels, or prune neurons"
        )
    return new


def _given(spec: PruneSpec, widths: Widths | None) -> Widths | None:
    """Return the model's widths with those that the specification sets."""
    if widths is None:
        return None
    for name in ("neurons", "groups", "channels"):
        if (count := getattr(spec, name)) and count > getattr(widths, name):
            raise InputError(f"prune.{name}: {count} cannot stay, the model has {getattr(widths, name)}")
    groups = spec.groups or widths.groups
    return replace(
        widths,
        neurons=spec.neurons or widths.neurons,
        groups=groups,
        heads=groups * widths.heads_per_group,
        channels=spec.channels or widths.channels,
    )


def _check_reachable(target: int, least: int, most: int) -> None:
    if not least <= target <= most:
        raise InputError(
            f"prune: {human(target)} parameters cannot be reached this way; choose between {human(least)} and "
            f"{human(most)}, or prune by something else"
        )


def _units(
    widths: Widths | None, new: Widths | None, kept: tuple[int, ...], scores: WidthScores | None
) -> dict[str, KeptUnits | str]:
    """Return the plan's fields about width: the units of highest score, the same number in every block."""
    if widths is None or new is None:
        return {}
    if scores is None:
        raise InputError(
            "prune: to choose neurons, groups or channels, importance has to be measured with width"
        )
    chosen: dict[str, KeptUnits | str] = {}

    def keep(name: str, pick: Callable[[int], tuple[tuple[int, ...], ...]]) -> None:
        before, after = getattr(widths, name), getattr(new, name)
        if after < before:
            chosen[name] = KeptUnits(of=before, kept=pick(after))

    keep("neurons", lambda n: tuple(top_units(scores.neurons[block], n) for block in kept))
    keep("groups", lambda n: tuple(top_units(scores.groups[block], n) for block in kept))
    keep("channels", lambda n: (top_units(scores.channels(kept), n),))
    return chosen | {"width_criterion": "activation"} if chosen else {}
