"""What turns last hidden states into logits: the output head, and what some architectures do after it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from regrow.errors import InputError

# By configuration field, the architectures (model_type) that apply it to their logits. The same field stands in
# configurations of others that never read it, or that mean the inverse.
_MULTIPLIED = {
    "logit_scale": {"cohere", "cohere2", "cohere2_moe", "cohere_compass_text"},
    "logits_scaling": {"hyperclovax"},
    "lm_head_multiplier": {"falcon_h1"},
    "output_multiplier": set[str](),
}
_DIVIDED = {
    "logits_scaling": {
        "granite", "granite_swa", "granitemoe", "granitemoe_swa", "granitemoehybrid", "granitemoeshared",
    },
}  # fmt: skip
_CAPPED = {
    "final_logit_softcapping": {
        "beam", "gemma2", "gemma3_text", "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "gemma4_unified",
        "gemma4_unified_text", "nanochat", "vaultgemma",
    },
    "logits_soft_cap": {"recurrent_gemma"},
    "output_logit_soft_cap": {"xlstm"},
}  # fmt: skip
_OTHER = ("unpadded_vocab_size",)  # logits are cut off after it


@dataclass(frozen=True, eq=False)
class Head:
    """An output head: `softcap * tanh(scale * (h W^T + b) / softcap)`, without a softcap `scale * (h W^T + b)`.

    Attributes:
        weight: (vocabulary, d).
        bias: (vocabulary,), or none.
        scale: what logits are multiplied by.
        softcap: bound on the absolute value of a logit, or none.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @property
    def vocabulary(self) -> int:
        """How many logits a position has."""
        return self.weight.shape[0]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of hidden states (..., d): multiplied in the head's type, then float32 or wider."""
        product = F.linear(hidden.to(self.weight.dtype), self.weight, self.bias)
        logits = product.to(torch.promote_types(product.dtype, torch.float32))
        if self.scale != 1:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = (logits / self.softcap).tanh() * self.softcap
        return logits

    def to(self, dtype: torch.dtype) -> "Head":
        """Return the head in another type; itself where it has that type already."""
        if self.weight.dtype == dtype:
            return self
        return Head(
            self.weight.to(dtype),
            None if self.bias is None else self.bias.to(dtype),
            self.scale,
            self.softcap,
        )


def head_of(model: Any) -> Head:
    """Return the head of a transformers causal language model; its tensors are the model's own parameters.

    Args:
        model: the model, or PEFT's wrapper around it.

    Raises:
        InputError: the logits are not known to be a `Head` of the last hidden states; the message names the
            field of the configuration, or the module, that is in the way.
    """
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = causal.config
    family, text = config.model_type, config.get_text_config()
    linear = causal.get_output_embeddings()
    if getattr(type(linear), "forward", None) is not torch.nn.Linear.forward:  # FSDP makes a subclass
        kind = type(linear)
        raise InputError(
            f"model_type {family!r}: the output head is a {kind.__module__}.{kind.__name__}, no plain linear layer; "
            "tune it without an adapter or quantization on the head"
        )
    if between := _between(causal, linear):
        raise InputError(
            f"model_type {family!r}: module {between} stands beside or around the output head; "
            "its logits cannot be computed from the last hidden states alone"
        )
    scale, softcap = 1.0, None
    for field, value in _set_fields(text):
        if family in _MULTIPLIED.get(field, ()):
            scale *= value
        elif family in _DIVIDED.get(field, ()):
            scale /= value
        elif family in _CAPPED.get(field, ()):
            softcap = float(value)
        elif field not in _OTHER or value < linear.out_features:
            raise InputError(
                f"config.json: {field} = {value}: what model_type {family!r} does with it after the output head "
                "is not known; use a model of another architecture"
            )
    return Head(linear.weight, linear.bias, scale, softcap)


def _set_fields(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields that may change logits, and their values, where they are not neutral."""
    for field in dict.fromkeys((*_MULTIPLIED, *_DIVIDED, *_CAPPED, *_OTHER)):
        value = getattr(config, field, None)
        if value and not (value == 1 and field not in _CAPPED):
            yield field, value


def _between(causal: Any, linear: torch.nn.Linear) -> str | None:
    """Return the module that may stand between the last hidden states and the head; None where there is none."""
    children = dict(causal.named_children())
    if not any(child is linear for child in children.values()):
        return next(
            (name for name, child in children.items() if any(part is linear for part in child.modules())),
            "(unknown)",
        )
    for name, child in children.items():
        if child is not linear and child is not causal.base_model and any(True for _ in child.parameters()):
            return name
    return None
