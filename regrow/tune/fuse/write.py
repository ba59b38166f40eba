"""A checkpoint like its parent but for what was trained, written tensor by tensor."""

from pathlib import Path

from regrow import tensors
from regrow.checkpoint import Checkpoint, copy_small_files
from regrow.files import atomic_folder
from regrow.tune.fuse.updates import Updates, adapter_updates, stored, trained_updates

_SHARD = 5 * 10**9


def fuse(
    parent: Checkpoint, adapter: Path, out: Path, *, note: str = "", max_shard_bytes: int = _SHARD
) -> None:
    """Write the parent with an adapter (LoRA, rsLoRA, DoRA) merged into it.

    The merge is computed in float32 and rounded once to the parent's type. All other tensors and all small
    files are copied byte for byte, so tied embeddings stay tied and untouched weights stay equal. Peak
    memory is a few copies of one weight matrix, and the adapter.

    Args:
        parent: the model that the adapter was trained on, in full precision: of a QLoRA adapter the model that
            was quantized.
        adapter: folder as PEFT saves it. A `base_model_name_or_path` of `sha256:<digest>` must name the parent.
        out: folder that appears.
        note: lines for the model card.
        max_shard_bytes: largest shard that is written.

    Raises:
        InputError: the adapter was trained on another model.
        RegrowError: the adapter is of a kind that cannot be merged, or does not fit the parent.
    """
    _write(parent, adapter_updates(parent, adapter), out, note, max_shard_bytes)


def overlay(
    parent: Checkpoint, trained: Path, out: Path, *, note: str = "", max_shard_bytes: int = _SHARD
) -> None:
    """Write the parent with trained tensors in place of its own, rounded once to its types.

    What the parent ties stays tied, whichever of its names was trained; all else is copied byte for byte.

    Args:
        parent: the model that was trained.
        trained: safetensors file of float32 tensors, named as the live model's parameters.
        out: folder that appears.
        note: lines for the model card.
        max_shard_bytes: largest shard that is written.

    Raises:
        RegrowError: the parent has no such tensor, or one of another shape.
    """
    _write(parent, trained_updates(parent, trained), out, note, max_shard_bytes)


def _write(parent: Checkpoint, updates: Updates, out: Path, note: str, max_shard_bytes: int) -> None:
    weights = parent.tensors()
    layout = {name: (info.dtype, info.shape) for name, info in weights.items()}
    with atomic_folder(out, replace=True) as scratch:
        with tensors.ShardWriter(scratch, layout, max_shard_bytes=max_shard_bytes) as writer:
            for name, info in weights.items():
                if name in updates:
                    weight = tensors.load(info, name)
                    writer.put(name, stored(updates[name].apply(weight), name, weight.dtype))
                else:
                    writer.copy(name, info)
        copy_small_files(parent.folder, scratch)
        (scratch / "README.md").write_text(f"# A fine-tuned language model\n\n{note}", encoding="utf-8")
