"""Importance of a model larger than memory: one block at a time, all texts through it, then the next.

Peak memory is the largest of one block and the embeddings, and the hidden states of all texts; with the
states on disk, those of one batch. The blocks run inside the model's own forward pass with stand-ins for the
others, on the same batches, so the numbers are those of the loaded model.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from regrow import device as devices
from regrow import tensors
from regrow.anatomy import BLOCK, Anatomy, decoder_blocks
from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.files import atomic_file
from regrow.importance.calibration import Batch
from regrow.importance.progress import Progress
from regrow.importance.standins import capture, run_on, skip, standing_in
from regrow.importance.tally import Tally

if TYPE_CHECKING:
    import torch


def measure_blockwise(
    checkpoint: Checkpoint,
    anatomy: Anatomy | None,
    loaded: list[Batch],
    tally: Tally,
    progress: Progress,
    dtype: "torch.dtype",
    *,
    on_disk: bool,
) -> None:
    """Send all batches through one block after the other.

    A measurement with the states on disk continues after the last finished block.

    Raises:
        InputError: the weights do not fill the model.
    """
    import torch

    skeleton = _Skeleton(checkpoint, dtype)
    depth = checkpoint.blocks
    folder = progress.folder if on_disk and progress.folder else None
    with (
        torch.inference_mode(),
        _states(on_disk, folder) as states,
        tqdm(total=depth * len(loaded), desc="importance", unit="batch") as bar,
    ):
        done = progress.restore(tally) if folder else 0
        if not done and not states.complete(0, len(loaded)):
            with skeleton.outside():
                for number, batch in enumerate(loaded):
                    states.write(0, number, skeleton.embed(batch.to(skeleton.device)))
        if done and not tally.all_tokens:
            states.keep_last_tokens(done - 1, loaded)  # a run that was killed may not have come to it
        bar.update(done * len(loaded))
        for block in range(done, depth):
            with skeleton.block(block):
                for number, batch in enumerate(loaded):
                    here = batch.to(skeleton.device)
                    before = states.read(block, number).to(skeleton.device)
                    after = skeleton.run(block, before, here, anatomy, tally)
                    tally.block(block, before, after, here)
                    states.write(block + 1, number, after)
                    bar.update()
            if folder:
                progress.save(tally, block + 1)
            if not tally.all_tokens:
                states.keep_last_tokens(block, loaded)
        for number, batch in enumerate(loaded):
            tally.text(batch)
            if tally.all_tokens:
                every = [states.read(level, number) for level in range(depth + 1)]
                rows = torch.arange(len(batch.ids))
                tally.last_tokens(torch.stack([state[rows, batch.last] for state in every]))
                tally.every_token(every, batch)
        if not tally.all_tokens:
            states.keep_last_tokens(depth, loaded)
            for number in range(len(loaded)):
                tally.last_tokens(states.last_tokens(number, depth))


class _Skeleton:
    """A model without weights, into which blocks are loaded and from which they are dropped again."""

    def __init__(self, checkpoint: Checkpoint, dtype: "torch.dtype") -> None:
        from accelerate import init_empty_weights
        from transformers import AutoConfig, AutoModelForCausalLM

        self.device = devices.device()
        self._dtype = dtype
        self._where = checkpoint.folder
        self._tensors = checkpoint.tensors()
        config = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
        # Buffers (rotary frequencies, embedding scales) are small, computed, and in no file.
        with init_empty_weights(include_buffers=False):
            self._model = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=False
            ).eval()
        for module in self._model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.to(self.device)
        self._prefix = f"{self._model.base_model_prefix}."
        self._depth = checkpoint.blocks
        self._blocks = decoder_blocks(self._model, self._depth)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Load what is neither a block nor the output head: the embeddings and the final norm."""
        names = [name for name in self._tensors if name.startswith(self._prefix) and not BLOCK.match(name)]
        with self._loaded(names):
            yield

    @contextmanager
    def block(self, number: int) -> Iterator[None]:
        """Load one block."""
        names = [
            name
            for name in self._tensors
            if (inside := BLOCK.match(name)) and int(inside["number"]) == number
        ]
        with self._loaded(names):
            missing = [name for name, one in self._blocks[number].named_parameters() if one.is_meta]
            if missing:
                raise InputError(
                    f"{self._where}: block {number} has no tensor {missing[0]}. Its file is incomplete, or "
                    "transformers converts this architecture while loading it: then set importance.placement to whole"
                )
            yield

    @contextmanager
    def _loaded(self, names: list[str]) -> Iterator[None]:
        from accelerate.utils import set_module_tensor_to_device

        known = dict(self._model.named_parameters())
        names = [name for name in names if name in known]  # older files also hold buffers
        for name in names:
            value = tensors.load(self._tensors[name], name)
            set_module_tensor_to_device(self._model, name, self.device, value=value, dtype=self._dtype)
        try:
            yield
        finally:
            for name in names:
                set_module_tensor_to_device(self._model, name, "meta")

    def embed(self, batch: Batch) -> "torch.Tensor":
        """Return the states before the first block."""
        states: list[torch.Tensor] = []
        stand_ins = {number: skip() for number in range(1, self._depth)} | {0: capture(states)}
        self._forward(stand_ins, batch, {"input_ids": batch.ids})
        return states[0]

    def run(
        self, number: int, before: "torch.Tensor", batch: Batch, anatomy: Anatomy | None, tally: Tally
    ) -> "torch.Tensor":
        """Return the states after a loaded block; its units of width are tallied."""
        block, states = self._blocks[number], []  # type: ignore[var-annotated]
        hooks = tally.hooks(number, block, anatomy, batch)
        stand_ins = {other: skip() for other in range(self._depth)} | {number: run_on(block, before, states)}
        try:
            # The embeddings are not loaded; the stand-ins ignore what is passed in their place.
            self._forward(stand_ins, batch, {"inputs_embeds": before})
        finally:
            for hook in hooks:
                hook.remove()
        result: torch.Tensor = states[0]
        return result

    def _forward(
        self,
        stand_ins: "Mapping[int, torch.nn.Module]",
        batch: Batch,
        inputs: "Mapping[str, torch.Tensor]",
    ) -> None:
        backbone = self._model.base_model
        with standing_in(self._blocks, stand_ins), _without_norm(backbone):
            backbone(**inputs, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False)


@contextmanager
def _without_norm(backbone: "torch.nn.Module") -> Iterator[None]:
    """Leave the final norm out: its result is not looked at, and its weight is not loaded."""
    import torch

    names = [name for name in ("norm", "final_layer_norm", "final_layernorm") if hasattr(backbone, name)]
    originals = {name: getattr(backbone, name) for name in names}
    for name in names:
        setattr(backbone, name, torch.nn.Identity())
    try:
        yield
    finally:
        for name, module in originals.items():
            setattr(backbone, name, module)


class _Memory:
    """States in memory. Only those of the current block, unless all are asked for at the end."""

    def __init__(self) -> None:
        self._states: dict[tuple[int, int], torch.Tensor] = {}
        self._last: dict[tuple[int, int], torch.Tensor] = {}

    def complete(self, level: int, count: int) -> bool:
        """Return whether all batches are there."""
        return all((level, number) in self._states for number in range(count))

    def write(self, level: int, number: int, states: "torch.Tensor") -> None:
        """Keep the states of a batch before block `level`."""
        self._states[level, number] = states.cpu()

    def read(self, level: int, number: int) -> "torch.Tensor":
        """Return the states of a batch before block `level`."""
        return self._states[level, number]

    def keep_last_tokens(self, level: int, loaded: list[Batch]) -> None:
        """Reduce the states before block `level` to those of last tokens."""
        import torch

        for number, batch in enumerate(loaded):
            if (level, number) in self._states:
                rows = torch.arange(len(batch.ids))
                self._last[level, number] = self._states.pop((level, number))[rows, batch.last].clone()

    def last_tokens(self, number: int, depth: int) -> "torch.Tensor":
        """Return the states of a batch's last tokens, (depth + 1, texts, d)."""
        import torch

        return torch.stack([self._last[level, number] for level in range(depth + 1)])


class _Disk:
    """States in files, which appear whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def complete(self, level: int, count: int) -> bool:
        """Return whether all batches are there."""
        return all(self._file("states", level, number).exists() for number in range(count))

    def write(self, level: int, number: int, states: "torch.Tensor") -> None:
        """Keep the states of a batch before block `level`."""
        self._save(self._file("states", level, number), states)

    def read(self, level: int, number: int) -> "torch.Tensor":
        """Return the states of a batch before block `level`."""
        return self._load(self._file("states", level, number))

    def keep_last_tokens(self, level: int, loaded: list[Batch]) -> None:
        """Reduce the states before block `level` to those of last tokens."""
        import torch

        for number, batch in enumerate(loaded):
            if (file := self._file("states", level, number)).exists():
                rows = torch.arange(len(batch.ids))
                self._save(self._file("last", level, number), self._load(file)[rows, batch.last])
                file.unlink()

    def last_tokens(self, number: int, depth: int) -> "torch.Tensor":
        """Return the states of a batch's last tokens, (depth + 1, texts, d)."""
        import torch

        return torch.stack([self._load(self._file("last", level, number)) for level in range(depth + 1)])

    def _file(self, kind: str, level: int, number: int) -> Path:
        return self._folder / f"{kind}-{level:03d}-{number:05d}.safetensors"

    def _save(self, file: Path, value: "torch.Tensor") -> None:
        from safetensors.torch import save_file

        with atomic_file(file) as scratch:
            save_file({"states": value.cpu().contiguous()}, scratch)

    def _load(self, file: Path) -> "torch.Tensor":
        from safetensors.torch import load_file

        return load_file(file)["states"]


@contextmanager
def _states(on_disk: bool, folder: Path | None) -> Iterator[_Memory | _Disk]:
    if not on_disk:
        yield _Memory()
        return
    if folder:
        yield _Disk(folder)
        return
    scratch = Path(tempfile.mkdtemp(prefix="regrow-states-"))
    try:
        yield _Disk(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
