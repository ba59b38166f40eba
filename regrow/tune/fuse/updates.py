"""What training changes in a checkpoint: by the name of a stored tensor, its new value in float32.

Training speaks of the live model's parameters, files of stored tensors. They differ where two parameters are
one (tied embeddings), and where a file was saved from the model without its head (GPT-2 on the Hub).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from regrow import tensors
from regrow.checkpoint import Checkpoint
from regrow.errors import InputError, RegrowError
from regrow.files import read_json

_PREFIX = "base_model.model."
_FACTORS = ("lora_A", "lora_B", "lora_magnitude_vector")
_DIGEST = "sha256:"
# Settings of PEFT's LoRA whose meaning is known here, or that say nothing about the weights. Any other one that
# is set makes of the factors something else than `scale B A`.
_UNDERSTOOD = {
    "r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out", "lora_dropout", "target_modules",
    "exclude_modules", "layers_to_transform", "layers_pattern", "init_lora_weights", "bias", "peft_type",
    "peft_version", "task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping",
    "megatron_core", "qalora_group_size", "ensure_weight_tying", "runtime_config",
}  # fmt: skip
# Ways to begin that leave the parent's weights alone; others (PiSSA, OLoRA, ...) train on a changed parent.
_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Update:
    """The new value of one stored tensor.

    Attributes:
        live: name of the parameter in the live model.
        apply: from the parent's tensor to the new one, in float32 and the same shape.
    """

    live: str
    apply: Callable[[torch.Tensor], torch.Tensor]


Updates = dict[str, Update]


def stored(value: torch.Tensor, name: str, dtype: torch.dtype) -> torch.Tensor:
    """Round a float32 value to the type it is stored in.

    Raises:
        RegrowError: the type cannot hold it, or it never was a finite number.
    """
    rounded = value.to(dtype)
    if not bool(rounded.isfinite().all()):
        raise RegrowError(
            f"{name}: the trained weights are not all finite numbers in {str(dtype).removeprefix('torch.')}; "
            "the training diverged, or the parent's type is too narrow for them"
        )
    return rounded


def adapter_updates(parent: Checkpoint, adapter: Path) -> Updates:
    """Return what a LoRA, rsLoRA or DoRA adapter makes of its parent's weights.

    LoRA (arXiv 2106.09685): `W + s B A`, s = alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv 2312.03732).
    DoRA (arXiv 2402.09353): every output row of that scaled to the length m that was learned for it.

    Args:
        parent: the model that the adapter was trained on.
        adapter: folder as PEFT saves it.

    Raises:
        InputError: the adapter was trained on another model.
        RegrowError: the adapter is of a kind that cannot be merged, or does not fit.
    """
    config = read_json(adapter / "adapter_config.json")
    _same_parent(parent, config)
    _mergeable(adapter, config)
    wanted = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if config.get("use_dora") else set())
    scale = _scale(config)
    names = _Names.of(parent)
    updates: Updates = {}
    for module, factors in sorted(_factors(adapter, names).items()):
        live = f"{module}.weight"
        if set(factors) != wanted:
            odd = sorted(set(factors) ^ wanted)[0]
            raise RegrowError(f"{adapter}: {module} does not have the factors of its kind (see {odd})")
        if live in names.tied:
            raise RegrowError(
                f"{adapter}: adapts {module}, whose weight is tied to another layer's; "
                "merging would change both. Train without it, or untie the parent"
            )
        places = names.places(live, f"which the adapter {adapter} changes")
        update = _LowRank(
            a=tensors.load(*factors["lora_A"]),
            b=tensors.load(*factors["lora_B"]),
            scale=scale,
            magnitude=tensors.load(*factors["lora_magnitude_vector"]) if config.get("use_dora") else None,
            transposed=module in names.transposed,
        )
        for name in places:
            if (shape := names.weights[name].shape) != update.shape or len(update.a) != config["r"]:
                raise RegrowError(
                    f"{adapter}: the factors of {module} make {update.shape} of rank {len(update.a)}, "
                    f"but the parent's tensor {name} is {shape} and r is {config['r']}"
                )
            updates[name] = Update(live, update)
    return updates


def trained_updates(parent: Checkpoint, trained: Path) -> Updates:
    """Return the tensors of a safetensors file, named as the live model's parameters, as updates.

    Of parameters that are one, any name will do.

    Raises:
        RegrowError: the parent has no such tensor, or one of another shape.
    """
    names = _Names.of(parent)
    updates: Updates = {}
    seen: dict[str, str] = {}
    for live, info in tensors.read_header(trained).items():
        places = names.places(live, f"which {trained} trained")
        for name in places:
            if info.shape != names.weights[name].shape:
                raise RegrowError(
                    f"{trained}: the trained {live} is {info.shape}, "
                    f"but the parent's tensor {name} is {names.weights[name].shape}"
                )
            if (other := seen.setdefault(name, live)) != live:
                raise RegrowError(f"{trained}: holds {other} and {live}, which are one tensor in the parent")
            updates[name] = Update(live, _Given(info, live))
    return updates


def check_stored(parent: Checkpoint, names: Iterable[str]) -> None:
    """See before a training run whether what it trains can be written into the parent's file.

    Raises:
        InputError: the file has no tensor for one of the live model's parameters `names`.
    """
    stored = _Names.of(parent)
    for name in names:
        try:
            stored.places(name, "which this recipe trains")
        except RegrowError as error:
            raise InputError(
                f"recipe.trainable: {error}; the architecture stores it under other names: take lora"
            ) from None


@dataclass(frozen=True)
class _LowRank:
    """`W + scale B A`, with rows of length `magnitude` if there is one.

    Shapes: a (r, in), b (out, r), magnitude (out); the weight is (out, in), or (in, out) where transposed.
    """

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    magnitude: torch.Tensor | None
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        out, into = len(self.b), self.a.shape[-1]
        return (into, out) if self.transposed else (out, into)

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        delta = (_float(self.b) @ _float(self.a)) * self.scale
        merged = weight.float() + (delta.T if self.transposed else delta)
        if self.magnitude is None:
            return merged
        rows = 0 if self.transposed else 1  # the axis along a row of (out, in)
        lengths = merged.norm(dim=rows)
        # A row of zeros has no direction to give a length to: it stays zero.
        factors = torch.where(lengths > 0, self.magnitude.float() / lengths, 0.0)
        return merged * factors.unsqueeze(rows)


@dataclass(frozen=True)
class _Given:
    """A tensor as it was trained."""

    info: tensors.TensorInfo
    name: str

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        return tensors.load(self.info, self.name).float()


@dataclass(frozen=True)
class _Names:
    """How the live model's parameters and the stored tensors of a checkpoint correspond.

    Attributes:
        weights: the stored tensors.
        groups: by the name of a parameter, all names that it has in the live model.
        transposed: modules whose weight is (in, out).
    """

    weights: dict[str, tensors.TensorInfo]
    groups: dict[str, tuple[str, ...]]
    transposed: frozenset[str]
    checkpoint: Path

    @classmethod
    def of(cls, parent: Checkpoint) -> "_Names":
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.pytorch_utils import Conv1D

        config = AutoConfig.from_pretrained(parent.folder, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        shared: dict[int, list[str]] = {}
        for name, weight in model.named_parameters(remove_duplicate=False):
            shared.setdefault(id(weight), []).append(name)
        names = cls(
            weights=parent.tensors(),
            groups={name: tuple(group) for group in shared.values() for name in group},
            transposed=frozenset(n for n, module in model.named_modules() if isinstance(module, Conv1D)),
            checkpoint=parent.folder,
        )
        return names._as_stored()

    @property
    def tied(self) -> set[str]:
        """Parameters that are one with another."""
        return {name for name, group in self.groups.items() if len(group) > 1}

    def places(self, live: str, why: str) -> list[str]:
        """Return the stored tensors that make a parameter: several where a file spells out a tie."""
        found = [name for one in self.groups.get(live, ()) if (name := self._find(one))]
        if not found:
            raise RegrowError(f"{self.checkpoint}: has no tensor {live}, {why}")
        return found

    def _find(self, live: str) -> str | None:
        bare = live.partition(".")[2]  # as a model without its head is saved
        return next((name for name in (live, bare) if name in self.weights), None)

    def _as_stored(self) -> "_Names":
        """Take ties apart that the configuration claims and the file belies; transformers goes by the file."""
        groups = dict(self.groups)
        for group in set(self.groups.values()):
            places = [name for one in group if (name := self._find(one))]
            if len(places) > 1 and not _all_equal({name: self.weights[name] for name in places}):
                groups |= {one: (one,) for one in group}
        return _Names(self.weights, groups, self.transposed, self.checkpoint)


def _all_equal(infos: dict[str, tensors.TensorInfo]) -> bool:
    (name, info), *others = infos.items()
    first = tensors.load(info, name)
    return all(torch.equal(first, tensors.load(info, name)) for name, info in others)


def _float(factor: torch.Tensor) -> torch.Tensor:
    """Return a float32 copy: products of it do not depend on where in a file's map the factor lies."""
    return factor.to(torch.float32, copy=True)


def _scale(config: dict[str, Any]) -> float:
    return float(config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"]))


def _same_parent(parent: Checkpoint, config: dict[str, Any]) -> None:
    named = str(config.get("base_model_name_or_path") or "")
    if named.startswith(_DIGEST) and named != _DIGEST + parent.digest:
        raise InputError(
            f"this adapter was trained on the model {named}, not on {_DIGEST}{parent.digest}; name that parent"
        )


def _mergeable(adapter: Path, config: dict[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise RegrowError(f"{adapter}: peft_type {kind} cannot be merged into weights; only LoRA's kinds can")
    odd = sorted(key for key, value in config.items() if value and key not in _UNDERSTOOD)
    if config.get("bias", "none") != "none":
        odd.append("bias")
    if config.get("init_lora_weights", True) not in _BEGINNINGS:
        odd.append("init_lora_weights")
    if odd:
        raise RegrowError(
            f"{adapter}: cannot be merged, for adapter_config.json sets {odd[0]} to {config[odd[0]]!r}; "
            "only LoRA, rsLoRA and DoRA of linear layers can"
        )


def _factors(adapter: Path, names: _Names) -> dict[str, dict[str, tuple[tensors.TensorInfo, str]]]:
    """Return by module where its factors lie: A (r, in), B (out, r), and DoRA's magnitudes (out)."""
    factors: dict[str, dict[str, tuple[tensors.TensorInfo, str]]] = {}
    for name, info in tensors.read_header(adapter / "adapter_model.safetensors").items():
        module, _, factor = name.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        if factor == "base_layer" and _is_the_parents(names, f"{module}.weight", info, name):
            continue  # PEFT saves a copy of an output head that it adapts
        if factor not in _FACTORS or not name.startswith(_PREFIX):
            raise RegrowError(
                f"{adapter}: unexpected tensor {name}; only LoRA factors of linear layers are merged"
            )
        factors.setdefault(module, {})[factor] = (info, name)
    return factors


def _is_the_parents(names: _Names, live: str, info: tensors.TensorInfo, name: str) -> bool:
    copy = tensors.load(info, name).float()
    places = names.places(live, f"of which {info.file} holds a copy")
    return all(torch.equal(copy, tensors.load(names.weights[place], place).float()) for place in places)
