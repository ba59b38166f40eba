"""Which blocks and which units of width matter: everything from one forward pass over the calibration texts.

Angular distance (Gromov et al., arXiv 2403.17887, Eq. 6 and 7) compares the input of block `start` with
the input of block `start + size` at the last real token. Block Influence (ShortGPT, arXiv 2403.03853) is
one minus the mean cosine between a block's input and output over all real tokens. Both read the hidden
states *between* blocks, before the final norm: transformers' `hidden_states[-1]` is after it, so hooks
take the states themselves. Units of width are scored as in Minitron (arXiv 2407.14679): from what goes into
the linear layers, L2 over texts of the mean over tokens.

Padding is never counted. The first token, whose state is an outlier in most models (the attention sink),
weighs in means over tokens as any other unless `skip_first` leaves it out; it is never the last token.
"""

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from regrow import device as devices
from regrow.anatomy import Anatomy, anatomy_of, decoder_blocks, stack_of, widths_of
from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.files import canonical_digest
from regrow.importance.blocks import measure_blockwise
from regrow.importance.calibration import Batch, batches
from regrow.importance.progress import Progress
from regrow.importance.scores import LayerImportance
from regrow.importance.search import check_sizes, search
from regrow.importance.spec import ImportanceSpec
from regrow.importance.tally import Tally

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)
# Changes when sums in older work folders would no longer be what this code finds.
_FORMAT = 1
# A loaded model may take this share of the free memory; the rest is for states.
_SHARE = 0.7


def compute(
    checkpoint: Checkpoint, texts: list[str], spec: ImportanceSpec, work: Path | None = None
) -> LayerImportance:
    """Measure a model on calibration texts.

    Args:
        checkpoint: the model.
        texts: what it reads.
        spec: settings.
        work: folder where an interrupted measurement is continued from; removed at the end. Nothing is kept
            if not given.

    Raises:
        InputError: no texts, none that is long enough, a model whose blocks cannot be found, a search that does
            not fit it, or states that are not finite numbers.
    """
    if spec.search:
        check_sizes(spec.search, checkpoint.blocks)
    loaded = batches(checkpoint.tokenizer(), texts, spec)
    anatomy = anatomy_of(checkpoint.config) if spec.width else None
    widths = widths_of(checkpoint.config, checkpoint.folder / "config.json") if anatomy else None
    depth = checkpoint.blocks
    tally = Tally(depth, widths, all_tokens=spec.all_tokens, skip_first=spec.skip_first)
    dtype = checkpoint.compute_dtype(spec.dtype)
    name = str(dtype).removeprefix("torch.")
    key = {
        "format": _FORMAT,
        "model": checkpoint.digest,
        "texts": canonical_digest(texts),
        "spec": spec.model_dump(mode="json", exclude={"placement", "states"}),
        "dtype": name,
    }
    progress = Progress(work, canonical_digest(key)[:16])
    whole = spec.placement == "whole" or (spec.placement == "auto" and _fits(checkpoint, dtype))
    model = checkpoint.load(dtype=name) if whole or spec.search else None
    if whole and model is not None:
        _measure_whole(model, depth, anatomy, loaded, tally, progress)
    else:
        measure_blockwise(checkpoint, anatomy, loaded, tally, progress, dtype, on_disk=spec.states == "disk")
    _check_finite(tally, name)
    found = search(model, checkpoint, loaded, spec, progress) if spec.search and model is not None else None
    result = LayerImportance(
        model_digest=checkpoint.digest,
        stack=stack_of(checkpoint.tensors(), depth, checkpoint.folder),
        angular_distance=tally.matrix(),
        angular_distance_all_tokens=tally.matrix(all_tokens=True) if spec.all_tokens else None,
        block_influence=tally.influence(),
        width=tally.width(),
        search=found,
        calibration_digest=canonical_digest(texts),
        samples=tally.samples,
        tokens=tally.tokens,
        skip_first=spec.skip_first,
        dtype=name,
    )
    if work is not None:
        shutil.rmtree(work, ignore_errors=True)
    return result


def _measure_whole(
    model: "PreTrainedModel",
    depth: int,
    anatomy: Anatomy | None,
    loaded: list[Batch],
    tally: Tally,
    progress: Progress,
) -> None:
    """Send the batches through a loaded model one after the other."""
    import torch

    blocks = decoder_blocks(model, depth)
    done = progress.restore(tally)
    saved = time.monotonic()
    with (
        torch.inference_mode(),
        tqdm(total=sum(len(one.ids) for one in loaded), desc="importance", unit="text") as bar,
    ):
        bar.update(sum(len(one.ids) for one in loaded[:done]))
        for number, batch in enumerate(loaded[done:], start=done + 1):
            here = batch.to(model.device)
            with _observed(blocks, anatomy, tally, here):
                # The backbone is enough: logits over the vocabulary would only cost time and memory.
                model.base_model(
                    input_ids=here.ids, attention_mask=here.mask, position_ids=here.positions, use_cache=False
                )
            tally.text(here)
            bar.update(len(batch.ids))
            if time.monotonic() - saved > progress.SECONDS or number == len(loaded):
                progress.save(tally, number)
                saved = time.monotonic()


@contextmanager
def _observed(
    blocks: "torch.nn.ModuleList", anatomy: Anatomy | None, tally: Tally, batch: Batch
) -> Iterator[None]:
    """Tally the states between blocks, and what goes into their linear layers, of one forward pass."""
    import torch

    rows = torch.arange(len(batch.ids), device=batch.ids.device)
    last: list[torch.Tensor] = []
    states: list[torch.Tensor] = []
    inputs: dict[int, torch.Tensor] = {}

    def state(value: "torch.Tensor") -> None:
        last.append(value[rows, batch.last])
        if tally.all_tokens:
            states.append(value)

    def before(number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs[number] = args[0] if args else kwargs["hidden_states"]
        state(inputs[number])

    def after(number: int, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        tally.block(number, inputs.pop(number), output, batch)
        if number == len(blocks) - 1:
            state(output)

    hooks = []
    for number, block in enumerate(blocks):
        hooks.append(
            block.register_forward_pre_hook(lambda _, a, k, n=number: before(n, a, k), with_kwargs=True)
        )
        hooks.append(block.register_forward_hook(lambda _, _a, output, n=number: after(n, output)))
        hooks.extend(tally.hooks(number, block, anatomy, batch))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    tally.last_tokens(torch.stack(last))
    if tally.all_tokens:
        tally.every_token(states, batch)


def _fits(checkpoint: Checkpoint, dtype: "torch.dtype") -> bool:
    """Return whether the loaded model leaves room for states."""
    need, free = checkpoint.parameters * dtype.itemsize, devices.free_memory()
    if need <= _SHARE * free:
        return True
    log.warning(
        "%s: %.1f GiB of weights, %.1f GiB of free memory: one block at a time",
        checkpoint.folder.name,
        need / 2**30,
        free / 2**30,
    )
    return False


def _check_finite(tally: Tally, dtype: str) -> None:
    if not tally.is_finite():
        raise InputError(
            f"importance.dtype: the hidden states are not finite numbers in {dtype}; choose float32"
        )
