"""How many parameters a pruned model has, and which numbers of units reach a given size."""

import math
from collections.abc import Iterator, Mapping
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


def candidates(widths: Widths, by: str) -> Iterator[Widths]:
    """Yield the sizes that pruning by neurons, groups, channels or width (neurons and channels) can give.

    Neurons stay a multiple of 64 where they are (of 8 in small models), for the sake of GPU kernels; channels a
    multiple of the number of heads, which some architectures demand, and of 8.
    """
    neuron_step = math.gcd(widths.neurons, 64 if widths.neurons >= 1024 else 8)
    channel_step = math.gcd(widths.channels, math.lcm(widths.heads, 8))
    if channel_step % widths.heads:
        channel_step = widths.channels
    if by == "groups":
        for groups in range(1, widths.groups + 1):
            yield replace(widths, groups=groups, heads=groups * widths.heads_per_group)
    elif by == "channels":
        for channels in range(channel_step, widths.channels + 1, channel_step):
            yield replace(widths, channels=channels)
    else:
        for neurons in range(neuron_step, widths.neurons + 1, neuron_step):
            if by == "neurons":
                yield replace(widths, neurons=neurons)
            else:
                steps = round(neurons / widths.neurons * widths.channels / channel_step)
                yield replace(widths, neurons=neurons, channels=max(1, steps) * channel_step)


def human(count: int) -> str:
    """Return a number of parameters as people write it: 6.72B, 134.5M."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.4g}{unit}"
    return str(count)


def closest(sizes: Mapping[Any, int], target: int) -> Any:
    """Return the key whose size is nearest to the target; of two equally near, the smaller model."""
    return min(sizes, key=lambda key: (abs(sizes[key] - target), sizes[key]))
