"""How far two models that share a shape lie apart, block by block; streamed."""

from regrow import tensors
from regrow.anatomy import BLOCK
from regrow.checkpoint import Checkpoint


def change_by_block(before: Checkpoint, after: Checkpoint) -> list[float]:
    """Return for each decoder block `|after - before| / |before|` over its weights (2-norms)."""
    old, new = before.tensors(), after.tensors()
    moved, size = [0.0] * before.blocks, [0.0] * before.blocks
    for name, info in old.items():
        if match := BLOCK.match(name):
            weight = tensors.load(info, name).float()
            number = int(match["number"])
            moved[number] += float((tensors.load(new[name], name).float() - weight).square().sum())
            size[number] += float(weight.square().sum())
    return [(part / whole) ** 0.5 if whole else 0.0 for part, whole in zip(moved, size, strict=True)]


def most_changed(before: Checkpoint, after: Checkpoint, count: int) -> list[int]:
    """Return the `count` blocks that changed most, in their order."""
    if not count:
        return []
    changes = change_by_block(before, after)
    return sorted(sorted(range(len(changes)), key=lambda block: -changes[block])[:count])
