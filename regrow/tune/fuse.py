"""An adapter merged into its parent's weights, streamed, and the proof that the merge is the adapter."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow import tensors
from regrow.checkpoint import Checkpoint, copy_small_files
from regrow.errors import RegrowError
from regrow.files import atomic_folder, read_json
from regrow.tune.data import Examples
from regrow.tune.job import Job

if TYPE_CHECKING:
    import torch

_PREFIX = "base_model.model."
# Largest accepted |merged - adapter| / |adapter| of the logits (2-norms): what rounding each merged weight
# once to the stored type explains, with room; a lost or doubled adapter is far outside for a trained model.
# bfloat16 is wide on purpose: an update below half a unit of the weight's last place is lost, and an adapter of few or
# small steps consists of such updates (measured: 0.003 to 0.008 after 12 to 24 steps, 0.048 after two).
_TOLERANCE = {"float32": 1e-4, "float16": 3e-2, "bfloat16": 1e-1}
# Settings of PEFT under which the update is not `scale B A` with one scale for all.
_VARIANTS = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "trainable_token_indices")
_SAMPLE, _SAMPLE_TOKENS = 4, 128


def fuse(
    parent: Checkpoint, adapter: Path, out: Path, *, note: str = "", max_shard_bytes: int = 5 * 10**9
) -> None:
    """Write the parent with `W + scale B A` in place of each adapted `W`.

    The sum is taken in float32 and rounded once to the parent's type. All other tensors and all small files
    are copied byte for byte, so tied embeddings stay tied and untouched weights stay equal. Peak memory is
    one weight matrix.

    Args:
        parent: the model that the adapter was trained on.
        adapter: folder as PEFT saves it.
        out: folder that appears.
        note: lines for the model card.
        max_shard_bytes: largest shard that is written.

    Raises:
        RegrowError: the adapter does not fit the parent.
    """
    config = read_json(adapter / "adapter_config.json")
    if config["peft_type"] != "LORA" or any(config.get(key) for key in _VARIANTS):
        raise RegrowError(f"{adapter}: only plain LoRA adapters can be merged")
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    pairs = _pairs(adapter)
    weights = parent.tensors()
    if odd := sorted(set(pairs) - set(weights)):
        raise RegrowError(f"{parent.folder}: has no tensor {odd[0]}, which the adapter changes")
    layout = {name: (info.dtype, info.shape) for name, info in weights.items()}
    with atomic_folder(out, replace=True) as scratch:
        with tensors.ShardWriter(scratch, layout, max_shard_bytes=max_shard_bytes) as writer:
            for name, info in weights.items():
                if name in pairs:
                    writer.put(
                        name, _merged(info, name, pairs[name], scale, bool(config.get("fan_in_fan_out")))
                    )
                else:
                    writer.copy(name, info)
        copy_small_files(parent.folder, scratch)
        (scratch / "README.md").write_text(f"# A fine-tuned language model\n\n{note}", encoding="utf-8")


def _pairs(adapter: Path) -> dict[str, dict[str, tuple[tensors.TensorInfo, str]]]:
    """Return by weight name where its factors A (r, in) and B (out, r) lie."""
    pairs: dict[str, dict[str, tuple[tensors.TensorInfo, str]]] = {}
    for name, info in tensors.read_header(adapter / "adapter_model.safetensors").items():
        module, _, factor = name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        if factor not in ("lora_A", "lora_B") or not name.startswith(_PREFIX):
            raise RegrowError(
                f"{adapter}: unexpected tensor {name}; only LoRA factors of linear layers are merged"
            )
        pairs.setdefault(f"{module}.weight", {})[factor] = (info, name)
    return pairs


def _merged(
    info: tensors.TensorInfo,
    name: str,
    pair: dict[str, tuple[tensors.TensorInfo, str]],
    scale: float,
    transposed: bool,
) -> "torch.Tensor":
    weight = tensors.load(info, name)
    a, b = (tensors.load(*pair[factor]).float() for factor in ("lora_A", "lora_B"))
    delta = (b @ a) * scale
    return (weight.float() + (delta.T if transposed else delta)).to(weight.dtype)


def check(job: Job, adapter: Path, merged: Path, examples: Examples) -> float:
    """Compare the merged model, as stock transformers loads it, with parent and adapter as PEFT runs them.

    Returns:
        `|merged - adapter| / |adapter|` over the logits of a few training examples (2-norms).

    Raises:
        RegrowError: the difference is beyond what rounding to the stored type explains.
    """
    from peft import PeftModel

    sample = [ids[:_SAMPLE_TOKENS] for ids in examples.tokens[:_SAMPLE]]
    parent = Checkpoint(folder=job.checkpoint, digest=job.parent, parameters=0)
    stored = str(Checkpoint.open(merged).config.get("dtype", "float32"))
    # PEFT keeps the adapter in float32 whatever type the parent's weights have.
    wanted = _logits(PeftModel.from_pretrained(parent.load(dtype="float32"), adapter).eval(), sample)
    got = _logits(Checkpoint.open(merged).load(dtype="float32"), sample)
    error, size = 0.0, 0.0
    for a, b in zip(got, wanted, strict=True):
        error += float((a - b).square().sum())
        size += float(b.square().sum())
    difference = math.sqrt(error / size)
    tolerance = _TOLERANCE.get(stored, _TOLERANCE["bfloat16"])
    if not difference <= tolerance:
        raise RegrowError(
            f"{merged}: the merged model is not the adapter's (logits differ by {difference:.2g} of their "
            f"norm, {tolerance:.2g} is rounding in {stored}); nothing was kept"
        )
    return difference


def _logits(model: Any, sample: list[list[int]]) -> list["torch.Tensor"]:
    import torch

    with torch.inference_mode():
        return [
            model(input_ids=torch.tensor([ids], device=model.device)).logits.float().cpu() for ids in sample
        ]
