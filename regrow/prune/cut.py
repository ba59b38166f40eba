"""Which part of each tensor stays."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from regrow.anatomy import BLOCK, Anatomy, Axis, Widths, stack_of
from regrow.errors import InputError
from regrow.prune.plan import PrunePlan
from regrow.tensors import TensorInfo

if TYPE_CHECKING:
    import torch

Selection = tuple[tuple[int, ...] | None, ...]


@dataclass(frozen=True)
class Cut:
    """A tensor of the pruned model: where it comes from and what of it stays."""

    source: str
    shape: tuple[int, ...]
    select: Selection = ()  # by axis: the places that stay, None for all; empty: the bytes are copied
    scale: float = 1.0  # of a norm's weight
    offset: float = 0.0  # 1 where the norm multiplies by one plus its weight

    @property
    def is_copy(self) -> bool:
        """Whether the tensor is copied byte for byte."""
        return not self.select

    def apply(self, tensor: "torch.Tensor") -> "torch.Tensor":
        """Return the part that stays."""
        import torch

        for axis, places in enumerate(self.select):
            if places is not None:
                tensor = tensor.index_select(axis, torch.tensor(places))
        if self.scale == 1:
            return tensor
        return ((tensor.double() + self.offset) * self.scale - self.offset).to(tensor.dtype)


def cuts(
    tensors: Mapping[str, TensorInfo],
    plan: PrunePlan,
    anatomy: Anatomy | None,
    widths: Widths | None,
    where: Path,
) -> dict[str, Cut]:
    """Return every tensor of the pruned model by name, in the order of the unpruned one's.

    An RMS norm over fewer units divides by the mean square of those alone. Its weight is multiplied by the square
    root of the old over the new number, so that the pruned model computes what the unpruned one would with
    the removed units at zero. A layer norm, which also subtracts the mean, has no such factor.

    Raises:
        InputError: config.json and the weights disagree, or a tensor that the family does not have.
    """
    prefix = f"{stack_of(tensors, plan.depth, where)}."
    position = {old: new for new, old in enumerate(plan.blocks)}
    places = _Places(plan, widths) if anatomy and widths and _cuts_width(plan) else None
    found = {}
    for name, info in tensors.items():
        inside = BLOCK.match(name)
        if inside and inside["prefix"] == prefix:
            if (old := int(inside["number"])) not in position:
                continue
            new_name = f"{prefix}{position[old]}.{inside['rest']}"
            block = position[old]
        else:
            new_name, block = name, None
        cut = Cut(source=name, shape=info.shape)
        if places and anatomy and widths:
            axes = anatomy.axes(name)
            _check_axes(name, info, axes, widths, where)
            cut = _width_cut(name, info, axes or (), block, places, anatomy)
        found[new_name] = cut
    return found


def _cuts_width(plan: PrunePlan) -> bool:
    return any(units is not None for units in (plan.neurons, plan.groups, plan.channels))


def _check_axes(
    name: str, info: TensorInfo, axes: tuple[Axis, ...] | None, widths: Widths, where: Path
) -> None:
    if axes is None:
        raise InputError(
            f"{where}: the tensor {name} is not known in this architecture, so its width cannot be pruned; "
            "prune blocks only"
        )
    expected = [widths.length(axis) for axis in axes]
    if len(axes) != len(info.shape) or any(
        length is not None and length != size for length, size in zip(expected, info.shape, strict=True)
    ):
        raise InputError(
            f"{where}: the tensor {name} has the shape {list(info.shape)}, config.json says "
            f"{[length or 'any' for length in expected]}; they disagree"
        )


def _width_cut(
    name: str,
    info: TensorInfo,
    axes: tuple[Axis, ...],
    block: int | None,
    places: "_Places",
    anatomy: Anatomy,
) -> Cut:
    select = tuple(places.along(axis, block) for axis in axes)
    if all(one is None for one in select):
        return Cut(source=name, shape=info.shape)
    shape = tuple(size if one is None else len(one) for size, one in zip(info.shape, select, strict=True))
    scale = 1.0
    if anatomy.is_norm(name) and anatomy.norm != "layer":
        inside = BLOCK.match(name)
        if not inside or inside["rest"].removesuffix(".weight") not in anatomy.unscaled_norms:
            scale = float((info.shape[0] / shape[0]) ** 0.5)
    return Cut(
        source=name,
        shape=shape,
        select=select,
        scale=scale,
        offset=1.0 if anatomy.norm == "rms_plus_one" else 0.0,
    )


class _Places:
    """The places that stay along every kind of axis, worked out once a block."""

    def __init__(self, plan: PrunePlan, widths: Widths) -> None:
        self._plan = plan
        self._widths = widths
        self._known: dict[tuple[Axis, int | None], tuple[int, ...] | None] = {}

    def along(self, axis: Axis, block: int | None) -> tuple[int, ...] | None:
        """Return the places that stay on an axis in the block that gets this number; None: all of them."""
        key = (axis, None if axis == "channels" else block)
        if key not in self._known:
            self._known[key] = self._find(axis, block)
        return self._known[key]

    def _find(self, axis: Axis, block: int | None) -> tuple[int, ...] | None:
        plan, widths = self._plan, self._widths
        if axis == "channels":
            return plan.channels.kept[0] if plan.channels else None
        if axis is None or block is None:
            return None
        if axis in ("neurons", "gate_up"):
            if not plan.neurons:
                return None
            neurons = plan.neurons.kept[block]
            return neurons if axis == "neurons" else neurons + tuple(n + widths.neurons for n in neurons)
        if not plan.groups:
            return None
        groups = plan.groups.kept[block]
        of_heads = _spread(groups, widths.heads_per_group * widths.head_dim)
        of_groups = _spread(groups, widths.head_dim)
        if axis == "heads":
            return of_heads
        if axis == "groups":
            return of_groups
        if axis == "heads3":
            return _spread(groups, 3 * widths.heads_per_group * widths.head_dim)
        keys, values = widths.heads * widths.head_dim, (widths.heads + widths.groups) * widths.head_dim
        return of_heads + tuple(n + keys for n in of_groups) + tuple(n + values for n in of_groups)


def _spread(units: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Return the places of units that take `size` places each."""
    return tuple(place for unit in units for place in range(unit * size, (unit + 1) * size))
