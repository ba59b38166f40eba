"""Siblings to merge: models a step away from one parent, as tuned ones are."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from regrow import tensors
from regrow.checkpoint import Checkpoint
from regrow.merge.methods import Array
from tests.tiny import tiny_checkpoint


def noisy(
    parent: Checkpoint, out: Path, seed: int, noise: float = 0.1, *, rest: float | None = None
) -> Checkpoint:
    """Add seeded noise, as large as `noise` times a tensor's standard deviation; `rest` times outside the MLPs."""
    folder = parent.copy_to(out).folder
    generator = torch.Generator().manual_seed(seed)
    file = folder / "model.safetensors"
    changed = {}
    for name, weight in load_file(file).items():
        share = noise if rest is None or ".mlp." in name else rest
        size = share * float(weight.float().std(correction=0).clamp(min=0.01))
        moved = weight.float() + size * torch.randn(weight.shape, generator=generator)
        changed[name] = moved.to(weight.dtype)
    file.unlink()  # it may be a link to the parent's
    save_file(changed, file, metadata={"format": "pt"})
    return Checkpoint.open(folder)


def family(
    folder: Path, count: int, noise: float = 0.1, dtype=torch.float32, **config
) -> tuple[Checkpoint, list[Checkpoint]]:
    """Return a parent and its tuned models."""
    parent = tiny_checkpoint(folder / "parent", dtype=dtype, **config)
    return parent, [noisy(parent, folder / f"sibling-{seed}", seed, noise) for seed in range(count)]


def values(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Every tensor, as stored."""
    return {name: tensors.load(info, name) for name, info in checkpoint.tensors().items()}


def arrays(checkpoint: Checkpoint) -> dict[str, Array]:
    """Every tensor in float32."""
    return {name: tensor.float().numpy() for name, tensor in values(checkpoint).items()}


def data(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Every tensor's bytes."""
    return {
        name: info.file.read_bytes()[info.start : info.end] for name, info in checkpoint.tensors().items()
    }


def apart(found: Mapping[str, Array], wanted: Mapping[str, Array], scale: Mapping[str, Array]) -> float:
    """Return the largest difference in units of the last place of `scale`, over all tensors."""
    assert found.keys() == wanted.keys()
    worst = 0.0
    for name, one in found.items():
        step = np.spacing(np.abs(scale[name]).astype(np.float32)).astype(np.float64)
        difference = np.abs(one.astype(np.float64) - wanted[name].astype(np.float64))
        worst = max(worst, float((difference / step).max()))
    return worst


def larger(*models: Checkpoint) -> dict[str, np.ndarray]:
    """The largest magnitude at each place."""
    each = [arrays(model) for model in models]
    return {name: np.max([np.abs(one[name]) for one in each], axis=0) for name in each[0]}
