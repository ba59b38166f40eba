"""The proof that a merged checkpoint is what was trained, and what rounding it cost.

Rounding to bfloat16 can swallow an update whole, so the logits of a right merge may be as far from the adapter's
as those of a wrong one: no tolerance tells them apart. The proof goes in steps that need none for rounding:

1. The float32 merge, in the parent as stock transformers loads it, has the logits that PEFT gets from adapter and
   parent. This proves the arithmetic.
2. Every tensor of the file is, bit for bit, that merge rounded once, or the parent's tensor. This proves the file.
3. The file, loaded by stock transformers, has the logits of the model in memory. This proves names and ties.

What rounding cost is measured and reported, never judged.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from regrow import tensors
from regrow.checkpoint import Checkpoint
from regrow.errors import RegrowError
from regrow.tune.fuse.updates import Updates, adapter_updates, stored, trained_updates

log = logging.getLogger(__name__)
# Largest accepted difference of float32 logits, relative to their own 2-norm ...
_TOLERANCE = 1e-4
# ... and, since a small update moves them by less than that, to how far training moved them: this share, above
# the noise of float32.
_SHARE, _NOISE = 0.1, 3e-5
_LOST = 0.5  # share of the update's effect from which on its loss to rounding is worth a warning
_SAMPLE, _PROMPT, _RESPONSE = 8, 192, 64  # examples, and tokens of each


class _MismatchError(Exception):
    """How the checkpoint is not what was trained."""


@dataclass
class _Outputs:
    """Logits of the sample at the positions that predict a response, each (positions, vocabulary), and the loss.

    Attributes:
        loss: mean negative log likelihood of the response, in nats a token.
    """

    logits: list[torch.Tensor]
    loss: float

    def distance(self, other: "_Outputs") -> float:
        pairs = zip(self.logits, other.logits, strict=True)
        return math.sqrt(sum(float((a - b).double().square().sum()) for a, b in pairs))

    @property
    def norm(self) -> float:
        return math.sqrt(sum(float(a.double().square().sum()) for a in self.logits))


def verify(
    parent: Checkpoint,
    merged: Path,
    *,
    adapter: Path | None,
    trained: Path | None,
    tokens: list[list[int]],
    prompts: list[int],
) -> dict[str, float]:
    """Prove that a checkpoint is its parent with what was trained, and evaluate it again.

    At most one float32 model is in memory at a time, and the logits of the responses of a few examples.

    Args:
        parent: the model that was trained, in full precision.
        merged: folder that `fuse` or `overlay` wrote.
        adapter: the adapter that was merged, as PEFT saves it; or
        trained: the safetensors file that was laid over the parent. One of the two.
        tokens: examples, of which the first few with a short prompt are run.
        prompts: how many tokens of each example are its prompt.

    Returns:
        merge_difference: |float32 merge - what was trained| / |what was trained|, of the logits (2-norms).
        rounding: share of training's effect on the logits that rounding to the stored type cost.
        parent_loss, tuned_loss, merged_loss: nats per response token on the sample: of the parent, of the adapter
            on the parent (or the trained weights) in float32, and of the merged checkpoint.

    Raises:
        InputError: the adapter was trained on another model.
        RegrowError: the checkpoint is not what was trained.
    """
    if (adapter is None) == (trained is None):
        raise ValueError("name the adapter or the trained weights, and not both")
    updates = adapter_updates(parent, adapter) if adapter else trained_updates(parent, trained or Path())
    try:
        facts = _prove(parent, merged, updates, adapter, trained, _sample(tokens, prompts))
    except _MismatchError as error:
        whose = "the adapter's" if adapter else "the trained one"
        raise RegrowError(f"{merged}: the merged model is not {whose} ({error}); nothing was kept") from None
    if facts["rounding"] > _LOST:
        log.warning(
            "%s: rounding to the stored type cost %.0f %% of the tuning's effect on the logits; train longer, with "
            "a higher learning rate, or from a float32 parent", merged, 100 * facts["rounding"],
        )  # fmt: skip
    return facts


def _prove(
    parent: Checkpoint,
    merged: Path,
    updates: Updates,
    adapter: Path | None,
    trained: Path | None,
    sample: list[tuple[list[int], int]],
) -> dict[str, float]:
    model = parent.load(dtype="float32")
    before = _outputs(model, sample)
    if adapter:
        model, tuned = _with_adapter(model, adapter, sample)
    else:
        tuned = _with_trained(model, trained or Path(), sample)
    if not math.isfinite(tuned.norm):
        raise _MismatchError("what was trained gives logits that are no finite numbers")
    types = _compare_file(parent, merged, updates, model)
    whole = _outputs(model, sample)
    size, error, effect = tuned.norm, whole.distance(tuned), tuned.distance(before)
    if not error <= min(_TOLERANCE * size, _SHARE * effect + _NOISE * size):
        raise _MismatchError(f"in float32 the logits differ by {error / size:.2g} of their norm")
    tuned_loss = tuned.loss
    del tuned
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, dtype in types.items():
        parameters[name].data.copy_(parameters[name].data.to(dtype))
    rounded = _outputs(model, sample)
    cost, moved = rounded.distance(whole), whole.distance(before)
    names = [name for name, _ in model.named_parameters()]
    del model, parameters, whole
    again = _reloaded(merged, names, sample)
    if not rounded.distance(again) <= _TOLERANCE * rounded.norm:
        raise _MismatchError("loaded again, it has other logits")
    return {
        "merge_difference": error / size,
        "rounding": cost / moved if moved else 0.0,
        "parent_loss": before.loss,
        "tuned_loss": tuned_loss,
        "merged_loss": again.loss,
    }


def _sample(tokens: Sequence[list[int]], prompts: Sequence[int]) -> list[tuple[list[int], int]]:
    """Return token ids and the first position whose next token is the response's, of a few examples."""
    usable = [(ids, max(start, 1)) for ids, start in zip(tokens, prompts, strict=True)]
    usable = [(ids, start) for ids, start in usable if start < len(ids)]
    if not usable:
        raise RegrowError("no example has a response; the merged model cannot be verified")
    short = [(ids, start) for ids, start in usable if start <= _PROMPT]
    chosen = short or sorted(usable, key=lambda one: one[1])
    return [(ids[: start + _RESPONSE], start - 1) for ids, start in chosen[:_SAMPLE]]


def _outputs(model: Any, sample: list[tuple[list[int], int]]) -> _Outputs:
    logits, total, count = [], 0.0, 0
    with torch.inference_mode():
        for ids, start in sample:
            batch = torch.tensor([ids], device=model.device)
            kept = model(input_ids=batch, use_cache=False).logits[0, start:-1].float().cpu().clone()
            target = torch.tensor(ids[start + 1 :])
            total += float(torch.nn.functional.cross_entropy(kept, target, reduction="sum"))
            count += len(target)
            logits.append(kept)
    return _Outputs(logits, total / count)


def _with_adapter(model: Any, adapter: Path, sample: list[tuple[list[int], int]]) -> tuple[Any, _Outputs]:
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(model, adapter).eval()
    tuned = _outputs(adapted, sample)
    return adapted.unload(), tuned


def _with_trained(model: Any, trained: Path, sample: list[tuple[list[int], int]]) -> _Outputs:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, info in tensors.read_header(trained).items():
        parameters[name].data.copy_(tensors.load(info, name))
    return _outputs(model, sample)


def _compare_file(parent: Checkpoint, merged: Path, updates: Updates, model: Any) -> dict[str, torch.dtype]:
    """Compare the file with the float32 merge, tensor by tensor, and put the merge into the live model.

    Returns:
        The stored type of each live parameter that was changed.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    before, after = parent.tensors(), tensors.index(merged)
    types = {}
    if odd := sorted(set(before) ^ set(after)):
        raise _MismatchError(f"tensor {odd[0]} is only in one of parent and file")
    for name, info in before.items():
        weight, got = tensors.load(info, name), tensors.load(after[name], name)
        want = weight
        if update := updates.get(name):
            whole = update.apply(weight)
            parameters[update.live].data.copy_(whole)
            types[update.live] = weight.dtype
            want = stored(whole, name, weight.dtype)
        if not _same_bits(got, want):
            raise _MismatchError(
                f"tensor {name} of the file is not {'the merge' if update else 'the parent'}'s"
            )
    return types


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(*(x.contiguous().flatten().view(torch.uint8) for x in (a, b)))


def _reloaded(merged: Path, parameters: list[str], sample: list[tuple[list[int], int]]) -> _Outputs:
    model = Checkpoint(folder=merged, digest="", parameters=0).load(dtype="float32")
    names = [name for name, _ in model.named_parameters()]
    if odd := sorted(set(names) ^ set(parameters)):
        raise _MismatchError(f"loaded again, {odd[0]} is tied as it was not in the parent")
    return _outputs(model, sample)
