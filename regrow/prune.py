"""Depth pruning: a plan, and the plan applied to a checkpoint without loading it.

Tensors of kept blocks are copied byte for byte under their new block number, and every per-block list of
the configuration follows. Blocks are numbered from 0 and ranges are half-open: dropping [13, 19) removes
`model.layers.13` to `model.layers.18`.
"""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from tqdm import tqdm

from regrow.checkpoint import Checkpoint, copy_small_files
from regrow.errors import InputError
from regrow.files import atomic_folder, read_json, write_json
from regrow.importance import LayerImportance
from regrow.tensors import ShardWriter, TensorInfo

log = logging.getLogger(__name__)

# Decoder-only families whose per-block settings are all either uniform or lists as long as the depth.
# Others (hybrids, shared keys and values, mixtures with a dense head) would be cut wrongly, so they are refused.
FAMILIES = frozenset({
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "olmo", "olmo2",
    "smollm3", "granite", "gpt_neox", "stablelm", "starcoder2", "cohere", "cohere2",
})  # fmt: skip
_BLOCK = re.compile(r"^(?P<prefix>(?:.*\.)?(?:layers|h|blocks)\.)(?P<number>\d+)(?P<rest>\..+)$")


class PruneSpec(BaseModel):
    """How many blocks go, and which, if that is not left to the importance ranking."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    blocks: int = Field(6, ge=1, description="number of contiguous blocks to remove")
    start: int | None = Field(
        None, ge=0, description="first block to remove, 0-based; not given: smallest angular distance"
    )


class PrunePlan(BaseModel):
    """Which blocks of which checkpoint go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source_digest: str = Field(description="digest of the checkpoint that the plan was made for")
    depth: int = Field(gt=1, description="blocks before pruning")
    start: int = Field(ge=0, description="first block removed, 0-based")
    stop: int = Field(description="first block after the removed run")
    criterion: str = Field(description="what chose the run: angular_distance or given")
    distance: float | None = Field(None, description="angular distance over the removed run, in [0, 1]")

    @model_validator(mode="after")
    def _inside(self) -> "PrunePlan":
        if not self.start < self.stop <= self.depth or self.stop - self.start >= self.depth:
            raise InputError(
                f"prune: the blocks [{self.start}, {self.stop}) cannot be removed from a model of {self.depth} "
                "blocks; the range must lie inside the model and leave at least one block"
            )
        return self

    @property
    def kept(self) -> list[int]:
        """Blocks that stay, in order."""
        return [block for block in range(self.depth) if not self.start <= block < self.stop]

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.model_dump())

    @classmethod
    def read(cls, path: Path) -> "PrunePlan":
        """Read a plan file.

        Raises:
            InputError: the file is missing or not a plan.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValueError as error:
            raise InputError(f"{path}: not a pruning plan ({str(error).splitlines()[0]})") from None


def make_plan(importance: LayerImportance, spec: PruneSpec) -> PrunePlan:
    """Choose the run of blocks to remove.

    Raises:
        InputError: the run does not fit into the model.
    """
    if spec.start is None:
        start, distance = importance.best(spec.blocks)
        return PrunePlan(
            source_digest=importance.model_digest,
            depth=importance.blocks,
            start=start,
            stop=start + spec.blocks,
            criterion="angular_distance",
            distance=distance,
        )
    return PrunePlan(
        source_digest=importance.model_digest,
        depth=importance.blocks,
        start=spec.start,
        stop=spec.start + spec.blocks,
        criterion="given",
        distance=importance.angular_distance[spec.blocks - 1][spec.start]
        if spec.blocks <= importance.blocks and spec.start < importance.blocks
        else None,
    )


def apply(
    checkpoint: Checkpoint, plan: PrunePlan, out: Path, *, max_shard_bytes: int = 5 * 10**9
) -> Checkpoint:
    """Write the pruned checkpoint to `out`; peak memory is one copy buffer.

    Raises:
        InputError: the plan is for another checkpoint, the architecture is not supported, or `out` exists.
    """
    if plan.source_digest != checkpoint.digest:
        raise InputError(
            f"{checkpoint.folder}: the plan was made for the checkpoint {plan.source_digest[:12]}, this one is "
            f"{checkpoint.digest[:12]}; make a new plan for it"
        )
    config = pruned_config(checkpoint.config, plan, checkpoint.folder)
    tensors = checkpoint.tensors()
    renamed = _rename(tensors, plan, checkpoint.folder)
    with atomic_folder(out) as scratch:
        layout = {new: (tensors[old].dtype, tensors[old].shape) for new, old in renamed.items()}
        with ShardWriter(scratch, layout, max_shard_bytes=max_shard_bytes) as writer:
            for new, old in tqdm(renamed.items(), desc="prune", unit="tensor"):
                writer.copy(new, tensors[old])
        copy_small_files(checkpoint.folder, scratch)
        write_json(scratch / "config.json", config)
        (scratch / "README.md").write_text(_card(checkpoint, plan), encoding="utf-8")
        _check(scratch)
    return Checkpoint.open(out)


def pruned_config(config: Mapping[str, Any], plan: PrunePlan, where: Path) -> dict[str, Any]:
    """Return the configuration of the pruned model: depth and every per-block list follow the plan.

    Raises:
        InputError: an unsupported family, quantized weights, or blocks that share keys and values.
    """
    family = config.get("model_type")
    file = where / "config.json"
    if family not in FAMILIES:
        raise InputError(
            f"{file}: model_type {family!r} is not a supported architecture; supported: {', '.join(sorted(FAMILIES))}"
        )
    if config.get("quantization_config"):
        raise InputError(
            f"{file}: the weights are quantized; prune the original bf16 or fp32 checkpoint instead"
        )
    if config.get("num_kv_shared_layers"):
        raise InputError(f"{file}: blocks share keys and values (num_kv_shared_layers); not supported")
    depth = config.get("num_hidden_layers")
    if depth != plan.depth:
        raise InputError(f"{file}: num_hidden_layers is {depth}, the plan is for {plan.depth} blocks")
    new = {
        key: [value[block] for block in plan.kept]
        if isinstance(value, list) and len(value) == depth
        else value
        for key, value in config.items()
        if key != "architectures"
    }
    if "architectures" in config:
        new["architectures"] = config["architectures"]
    new["num_hidden_layers"] = len(plan.kept)
    if isinstance(window := config.get("max_window_layers"), int):
        # Blocks below this number attend in full: the count of those that stay.
        new["max_window_layers"] = sum(block < window for block in plan.kept)
    return new


def _rename(tensors: Mapping[str, TensorInfo], plan: PrunePlan, where: Path) -> dict[str, str]:
    """Map new tensor names to old ones, dropping the removed blocks."""
    numbers: dict[str, set[int]] = {}
    for name in tensors:
        if match := _BLOCK.match(name):
            numbers.setdefault(match["prefix"], set()).add(int(match["number"]))
    prefixes = [prefix for prefix, seen in numbers.items() if seen == set(range(plan.depth))]
    if len(prefixes) != 1:
        raise InputError(
            f"{where}: the weights do not hold exactly one stack of {plan.depth} numbered blocks "
            f"(found {sorted(numbers) or 'none'}); config.json and the safetensors disagree"
        )
    position = {old: new for new, old in enumerate(plan.kept)}
    renamed = {}
    for name in tensors:
        match = _BLOCK.match(name)
        if not match or match["prefix"] != prefixes[0]:
            renamed[name] = name
        elif (old := int(match["number"])) in position:
            renamed[f"{match['prefix']}{position[old]}{match['rest']}"] = name
    return renamed


def _check(folder: Path) -> None:
    """Fail now, not at the user's site, if stock transformers would refuse the configuration."""
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise InputError(f"{folder.name}: transformers refuses the pruned configuration ({error})") from error


def _card(checkpoint: Checkpoint, plan: PrunePlan) -> str:
    return (
        "# Pruned model\n\n"
        f"Blocks [{plan.start}, {plan.stop}) of {plan.depth} were removed (0-based, half-open; criterion: "
        f"{plan.criterion}).\n\n"
        f"- base checkpoint: `{checkpoint.digest}`\n"
        f"- angular distance over the removed run: {plan.distance}\n"
        f"- made with regrow\n"
    )
