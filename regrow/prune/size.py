"""How many parameters a pruned model has, and which numbers of units reach a given size."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from regrow.anatomy import BLOCK, Anatomy, Widths
from regrow.tensors import TensorInfo


def parameters(
    tensors: Mapping[str, TensorInfo],
    blocks: int,
    anatomy: Anatomy | None = None,
    widths: Widths | None = None,
) -> int:
    """Count the parameters of a model that keeps its first `blocks` blocks and has these widths.

    Args:
        tensors: the unpruned model's.
        blocks: number of blocks that stay; blocks of the supported families are all of one size.
        anatomy: where units lie; needed with `widths`.
        widths: units of the pruned model; all stay if not given.
    """
    total = 0
    for name, info in tensors.items():
        inside = BLOCK.match(name)
        if inside and int(inside["number"]) >= blocks:
            continue
        axes = anatomy.axes(name) if anatomy and widths else None
        if axes is None or widths is None:
            total += info.count
        else:
            lengths = (widths.length(axis) for axis in axes)
            total += math.prod(length or size for length, size in zip(lengths, info.shape, strict=True))
    return total


def candidates(widths: Widths, by: str) -> list[Widths]:
    """Return the sizes that pruning by neurons, groups, channels or width (neurons and channels) can give.

    Neurons stay a multiple of 64 where they are (of 8 in small models), for the sake of GPU kernels; channels a
    multiple of the number of heads, which some architectures demand, and of 8.
    """
    neuron_step = math.gcd(widths.neurons, 64 if widths.neurons >= 1024 else 8)
    channel_step = math.gcd(widths.channels, math.lcm(widths.heads, 8))
    if channel_step % widths.heads:
        channel_step = widths.channels
    if by == "groups":
        counts = range(1, widths.groups + 1)
        return [replace(widths, groups=n, heads=n * widths.heads_per_group) for n in counts]
    neurons = range(neuron_step, widths.neurons + 1, neuron_step)
    channels = range(channel_step, widths.channels + 1, channel_step)
    if by == "neurons":
        return [replace(widths, neurons=n) for n in neurons]
    if by == "channels":
        return [replace(widths, channels=c) for c in channels]
    return [replace(widths, neurons=n, channels=c) for c in channels for n in neurons]


def nearest(sizes: Mapping[Widths, int], target: int, before: Widths) -> Widths:
    """Return the widths that come nearest to a number of parameters.

    Where neurons and channels can be traded for each other, every number of channels has its nearest number of neurons;
    of these pairs the one is taken that removes the two most evenly.
    """
    by_channels: dict[int, dict[Widths, int]] = {}
    for one, size in sizes.items():
        by_channels.setdefault(one.channels, {})[one] = size
    pairs = [closest(group, target) for group in by_channels.values()]
    # A pair at the end of its range may be far off: it is no way to reach the target.
    best = min(abs(sizes[one] - target) for one in pairs)
    near = [one for one in pairs if abs(sizes[one] - target) <= max(2 * best, target // 100)]

    def unevenness(one: Widths) -> tuple[float, int]:
        uneven = abs(one.neurons / before.neurons - one.channels / before.channels)
        return round(uneven, 6), abs(sizes[one] - target)

    return min(near, key=unevenness)


def human(count: int) -> str:
    """Return a number of parameters as people write it: 6.72B, 134.5M."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.4g}{unit}"
    return str(count)


def closest(sizes: Mapping[Any, int], target: int) -> Any:
    """Return the key whose size is nearest to the target; of two equally near, the smaller model."""
    return min(sizes, key=lambda key: (abs(sizes[key] - target), sizes[key]))
