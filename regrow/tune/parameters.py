"""A recipe's choice of weights, made on a live model. Imported by the worker alone."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from regrow.anatomy import decoder_blocks
from regrow.checkpoint import Checkpoint
from regrow.errors import InputError, RegrowError
from regrow.tune.recipe import BitFit, Full, HeadAndLastK, Lora, Prefix

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


def load_for_training(parent: Checkpoint, spec: Any, dtype: str, *, checkpointing: bool) -> Any:
    """Load the parent and make the recipe's weights, and no others, trainable, in float32.

    The model stays on the CPU (a quantized one is on its GPU): the trainer places it, each process on its own device.

    Args:
        parent: the model that is tuned.
        spec: the recipe's `trainable`.
        dtype: torch type of the frozen weights.
        checkpointing: whether activations are computed twice.

    Returns:
        A `PreTrainedModel`, or a `PeftModel` around one.

    Raises:
        InputError: the model has not what the recipe trains.
    """
    if isinstance(spec, Lora) and spec.kind == "qlora":
        model = _in_four_bits(parent, checkpointing=checkpointing)
    else:
        model = parent.load(dtype=dtype, device="cpu")
    if isinstance(spec, Lora) and spec.kind == "dora":
        _check_rows(model)
    return make_trainable(model, spec, parent, checkpointing=checkpointing)


def make_trainable(model: "PreTrainedModel", spec: Any, parent: Checkpoint, *, checkpointing: bool) -> Any:
    """Make the recipe's weights, and no others, trainable, in float32; arguments and result as in `load_for_training`.

    Raises:
        InputError: the model has not what the recipe trains.
    """
    model.config.use_cache = False
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if isinstance(spec, Lora | Prefix):
        return _with_adapter(model, spec, parent).train()
    chosen = set(_chosen(model, spec, parent.blocks))
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in chosen)
        if name in chosen:
            weight.data = weight.data.float()  # steps far below a unit of bfloat16's last place must add up
    if checkpointing:
        model.enable_input_require_grads()
    return model.train()


def _in_four_bits(parent: Checkpoint, *, checkpointing: bool) -> "PreTrainedModel":
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantized = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(
        parent.folder, quantization_config=quantized, dtype=torch.bfloat16, local_files_only=True,
        device_map={"": torch.cuda.current_device()},
    )  # fmt: skip
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)


def _with_adapter(model: "PreTrainedModel", spec: Lora | Prefix, parent: Checkpoint) -> Any:
    from peft import LoraConfig, PrefixTuningConfig, get_peft_model

    if isinstance(spec, Prefix):
        return get_peft_model(
            model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=spec.tokens)
        )
    targets: Any = spec.target_modules
    if spec.blocks is not None:
        targets = _linear_layers(model, spec, parent)
    elif targets == "all-linear" and any(weight.ndim == 3 for weight in model.parameters()):
        targets = _names_of_linear(model)
        log.warning("experts that are held as one tensor get no adapter; only %s do", ", ".join(targets))
    return get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=spec.r,
            lora_alpha=spec.alpha,
            lora_dropout=spec.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            use_rslora=spec.kind == "rslora",
            use_dora=spec.kind == "dora",
        ),
    )


def _names_of_linear(model: "PreTrainedModel") -> list[str]:
    """Names by which PEFT finds the linear layers but the head; it would put adapters on fused experts by itself."""
    head = model.get_output_embeddings()
    return sorted(
        {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        }
    )


def _check_rows(model: "PreTrainedModel") -> None:
    """DoRA divides by the length of every row of W."""
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head and not module.weight.any(dim=1).all():
            raise InputError(
                f"recipe.trainable.kind dora: {name} has a row of zeros, whose direction is none; take lora"
            )


def _linear_layers(model: "PreTrainedModel", spec: Lora, parent: Checkpoint) -> list[str]:
    """Names of the linear layers of the chosen blocks."""
    from transformers.pytorch_utils import Conv1D

    found = []
    for prefix in _block_prefixes(model, spec.blocks or (), parent.blocks):
        for name, module in model.named_modules():
            wanted = spec.target_modules == "all-linear" or name.rpartition(".")[2] in spec.target_modules
            if name.startswith(prefix) and wanted and isinstance(module, torch.nn.Linear | Conv1D):
                found.append(name)
    if not found:
        raise InputError("recipe.trainable.blocks: none of these blocks has a linear layer of target_modules")
    return found


def _block_prefixes(model: "PreTrainedModel", blocks: tuple[int, ...], depth: int) -> list[str]:
    if odd := [block for block in blocks if not 0 <= block < depth]:
        raise InputError(
            f"recipe.trainable: block {odd[0]} is named, but the model has blocks 0 to {depth - 1}"
        )
    modules = decoder_blocks(model, depth)
    names = {id(module): name for name, module in model.named_modules()}
    return [f"{names[id(modules[block])]}." for block in blocks]


def _chosen(model: "PreTrainedModel", spec: Any, depth: int) -> list[str]:
    """Names of the weights that train; of a shared matrix, the one under which the model lists it."""
    names = [name for name, _ in model.named_parameters()]
    if isinstance(spec, Full):
        if spec.blocks is None:
            return names
        every = tuple(_block_prefixes(model, tuple(range(depth)), depth))
        some = tuple(_block_prefixes(model, spec.blocks, depth))
        return [name for name in names if not name.startswith(every) or name.startswith(some)]
    if isinstance(spec, HeadAndLastK):
        if spec.k > depth:
            raise InputError(f"recipe.trainable.k {spec.k}: the model has {depth} blocks")
        last = tuple(_block_prefixes(model, tuple(range(depth - spec.k, depth)), depth))
        head = {id(weight) for weight in model.get_output_embeddings().parameters()}
        shared = [name for name, weight in model.named_parameters() if id(weight) in head]
        return shared + [name for name in names if name.startswith(last)]
    if isinstance(spec, BitFit):
        if biases := [name for name in names if name.endswith(".bias")]:
            return biases
        norms = [name for name, module in model.named_modules() if type(module).__name__.endswith("Norm")]
        gains = [f"{name}.weight" for name in norms if f"{name}.weight" in set(names)]
        if not gains:
            raise InputError("recipe.trainable.kind bitfit: the model has neither biases nor gains of norms")
        log.warning(
            "bitfit: the model has no biases; the gains of its %d norms are trained instead", len(gains)
        )
        return gains
    raise RegrowError(f"unknown kind {spec!r}")


def trained(model: Any) -> dict[str, torch.Tensor]:
    """Return what is trained, by name, as it stands now."""
    return {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}


def save_trained(model: Any, path: Path, state: dict[str, torch.Tensor] | None = None) -> None:
    """Write what is trained to a safetensors file; `state`: the weights, where the model holds a shard of them."""
    values = trained(model) if state is None else {name: state[name] for name in trained(model)}
    weights = {name: weight.detach().cpu().contiguous() for name, weight in values.items()}
    save_file(weights, path, metadata={"format": "pt"})


def load_trained(model: Any, path: Path) -> None:
    """Put what `save_trained` wrote back into the model."""
    stored, weights = load_file(path), trained(model)
    if set(stored) != set(weights):
        raise RegrowError(f"{path}: holds other weights than the recipe trains; remove the job's folder")
    for name, weight in weights.items():
        weight.copy_(stored[name])
