"""A checkpoint on paper: configuration and tensors' shapes, without weights.

Whatever reads headers and configuration alone (`regrow.evaluate.cost`, `regrow.prune`, the rehearsal of
`regrow.tune`) takes it for the model that it describes. The shapes are those of the model that transformers builds
from the configuration, so a family needs no formula of its own here.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regrow import tensors
from regrow.anatomy import BLOCK, anatomy_of, widths_of
from regrow.checkpoint import DTYPES, Checkpoint
from regrow.errors import InputError
from regrow.files import canonical_digest, write_json
from regrow.importance import LayerImportance, WidthScores
from regrow.prune import PruneSpec, make_plan
from regrow.prune.config import pruned_config

# What hub checkpoints without a type in their configuration are mostly stored in.
_DTYPE = "bfloat16"


class Paper(Checkpoint):
    """A checkpoint whose tensors were never written."""

    shapes: tuple[tuple[str, str, tuple[int, ...]], ...]
    named: str

    def __hash__(self) -> int:
        # Of the digest alone: the rehearsal keeps results by checkpoint, and there are thousands of shapes.
        return hash(self.digest)

    def tensors(self) -> dict[str, tensors.TensorInfo]:
        """Every tensor by name; each begins where the one before ends, as in one file."""
        found, start = {}, 0
        for name, kind, shape in self.shapes:
            end = start + math.prod(shape) * _BYTES[kind]
            found[name] = tensors.TensorInfo(kind, shape, self.folder / tensors.SINGLE, start, end)
            start = end
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of the weights as they are stored."""
        return sum(math.prod(shape) * _BYTES[kind] for _, kind, shape in self.shapes)


_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def paper(config: Mapping[str, Any], name: str, folder: Path) -> Paper:
    """Lay a model out from its configuration.

    Args:
        config: content of config.json.
        name: what the model is called in messages.
        folder: where the configuration is written, in a folder of its own, for those that read it from there.

    Raises:
        InputError: not the configuration of a causal language model that transformers knows.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    from regrow.source.models import check_architecture

    check_architecture(dict(config), Path(name))
    stored = str(config.get("dtype") or config.get("torch_dtype") or _DTYPE).removeprefix("torch.")
    if stored not in DTYPES:
        raise InputError(f"{name}: dtype {stored}: regrow works on {', '.join(DTYPES)} checkpoints")
    place = folder / canonical_digest(dict(config))[:16]
    write_json(place / "config.json", dict(config))
    try:
        resolved = AutoConfig.from_pretrained(place, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(resolved, trust_remote_code=False)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, StrictDataclassError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{name}: transformers cannot lay this model out ({first})") from error
    weights = dict(model.named_parameters())  # a tied weight comes once
    saved = model.state_dict()
    weights |= {key: buffer for key, buffer in model.named_buffers() if key in saved}
    shapes = tuple((key, DTYPES[stored], tuple(weight.shape)) for key, weight in weights.items())
    return Paper(
        folder=place,
        digest=canonical_digest(dict(config)),
        parameters=sum(math.prod(shape) for *_, shape in shapes),
        shapes=shapes,
        named=name,
    )


def cut(base: Paper, spec: PruneSpec, folder: Path) -> Paper:
    """Lay the pruned model out.

    Which blocks and units go is not known before importance is measured, but how many is. Here a run of blocks
    drawn by lot goes, which costs the same where all blocks are alike.

    Raises:
        InputError: the specification does not fit the model.
    """
    from transformers import AutoConfig

    wanted = spec if spec.drop is not None else spec.model_copy(update={"criterion": "random"})
    plan = make_plan(base, wanted, _nothing_measured(base) if spec.needs_width else None)
    resolved = AutoConfig.from_pretrained(base.folder, local_files_only=True, trust_remote_code=False)
    config = pruned_config(base.config, plan, base.folder / "config.json", resolved.to_dict())
    return paper(config, f"{base.named}, pruned", folder)


def _nothing_measured(base: Paper) -> LayerImportance:
    """Scores that are all alike, for plans that need some."""
    depth = base.blocks
    width = None
    if anatomy_of(base.config):
        widths = widths_of(base.config, base.named)
        width = WidthScores(
            neurons=[[0.0] * widths.neurons] * depth,
            groups=[[0.0] * widths.groups] * depth,
            channels_by_block=[[0.0] * widths.channels] * depth,
        )
    return LayerImportance(
        model_digest=base.digest,
        angular_distance=[[0.0] * depth] * depth,
        block_influence=[0.0] * depth,
        width=width,
        calibration_digest="",
        samples=0,
        tokens=0,
    )


def largest_block(model: Checkpoint) -> int:
    """Return the parameters of the largest block."""
    sizes: dict[int, int] = {}
    for name, info in model.tensors().items():
        if inside := BLOCK.match(name):
            sizes[int(inside["number"])] = sizes.get(int(inside["number"]), 0) + info.count
    return max(sizes.values())


def largest_tensor(model: Checkpoint) -> int:
    """Return the number of entries of the largest tensor."""
    return max(info.count for info in model.tensors().values())
