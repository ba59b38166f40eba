"""Which blocks matter: angular distance and Block Influence from one forward pass.

Angular distance (Gromov et al., arXiv 2403.17887, Eq. 6 and 7) compares the input of block `start` with
the input of block `start + size` at the last real token. Block Influence (ShortGPT, arXiv 2403.03853) is
one minus the mean cosine between a block's input and output over all real tokens. Both read the hidden
states *between* blocks, before the final norm: transformers' `hidden_states[-1]` is after it, so hooks
take the states themselves.
"""

import logging
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.files import canonical_digest, read_json, write_json

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


class ImportanceSpec(BaseModel):
    """How the importance of blocks is measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_tokens: int = Field(256, ge=2, description="tokens kept of each calibration text")
    batch_size: int = Field(8, ge=1, description="texts in one forward pass")
    dtype: str = Field("auto", description="torch type of the forward pass; auto: the checkpoint's own")


class LayerImportance(BaseModel):
    """What one pass over the calibration texts says about every block and every run of blocks."""

    model_config = ConfigDict(frozen=True)

    model_digest: str = Field(description="digest of the checkpoint that was measured")
    angular_distance: list[list[float | None]] = Field(
        description="[size - 1][start]: distance in [0, 1] between the input of block `start` and the output "
        "of block `start + size - 1`; null where the run would pass the last block"
    )
    block_influence: list[float] = Field(
        description="1 - mean cosine(input, output) of each block, all tokens"
    )
    calibration_digest: str = Field(description="SHA-256 over the calibration texts")
    samples: int = Field(description="calibration texts")
    tokens: int = Field(description="calibration tokens, padding not counted")

    @property
    def blocks(self) -> int:
        """Number of blocks of the measured model."""
        return len(self.block_influence)

    def best(self, size: int) -> tuple[int, float]:
        """Return the start of the run of `size` blocks with the smallest angular distance, and that distance.

        Raises:
            InputError: `size` is not between 1 and the depth less one.
        """
        if not 0 < size < self.blocks:
            raise InputError(
                f"prune.blocks: {size} of {self.blocks} blocks cannot be removed; choose 1 to {self.blocks - 1}"
            )
        row = [
            (distance, start)
            for start, distance in enumerate(self.angular_distance[size - 1])
            if distance is not None
        ]
        distance, start = min(row)
        return start, distance

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_json(path, self.model_dump())

    @classmethod
    def read(cls, path: Path) -> "LayerImportance":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing or not an importance file.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValueError as error:
            raise InputError(f"{path}: not an importance file ({str(error).splitlines()[0]})") from None


def compute(checkpoint: Checkpoint, texts: list[str], spec: ImportanceSpec) -> LayerImportance:
    """Measure every run of blocks in one pass over `texts`.

    Padding is never counted: batches are padded on the right, where causal attention cannot see it, and
    masked out of every mean. Cosines are taken in float32 and averaged in float64. The first token, whose
    state is an outlier in most models (the attention sink), weighs in Block Influence as any other.

    Raises:
        InputError: no texts, none of at least two tokens, or a model whose blocks cannot be found.
    """
    import torch

    if not texts:
        raise InputError(
            "importance: the calibration set is empty; name a text source with at least one text"
        )
    tokenizer = checkpoint.tokenizer()
    encoded = [row for text in texts if len(row := _encode(tokenizer, text, spec.max_tokens)) > 1]
    if not encoded:
        raise InputError("importance: no calibration text has two tokens; choose longer texts")
    model = checkpoint.load(dtype=spec.dtype)
    depth = checkpoint.blocks
    # Index [i][j]: summed arccos/pi between the states before block i and before block j.
    angles = torch.zeros(depth + 1, depth + 1, dtype=torch.float64)
    cosines = torch.zeros(depth, dtype=torch.float64)
    tokens = 0
    with torch.inference_mode(), tqdm(total=len(encoded), desc="importance", unit="text") as bar:
        for ids, mask in _batches(encoded, spec.batch_size, model.device):
            states = _block_states(model, depth, ids, mask)
            last = mask.sum(dim=1) - 1
            rows = torch.arange(len(ids), device=ids.device)
            final = torch.stack([state[rows, last] for state in states]).float()  # (depth + 1, batch, d)
            angles += _angles(final).cpu()
            for block, (before, after) in enumerate(pairwise(states)):
                cosine = torch.nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
                cosines[block] += cosine[mask.bool()].double().sum().cpu()
            tokens += int(mask.sum())
            bar.update(len(ids))
    mean = (angles / len(encoded)).tolist()
    distance = [
        [mean[start][start + size] if start + size <= depth else None for start in range(depth)]
        for size in range(1, depth + 1)
    ]
    return LayerImportance(
        model_digest=checkpoint.digest,
        angular_distance=distance,
        block_influence=(1 - cosines / tokens).tolist(),
        calibration_digest=canonical_digest(texts),
        samples=len(encoded),
        tokens=tokens,
    )


def decoder_blocks(model: Any, depth: int) -> "torch.nn.ModuleList":
    """Return the list of decoder blocks of a transformers model.

    Raises:
        InputError: there is not exactly one module list as long as the configured depth.
    """
    import torch

    found = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == depth]
    if len(found) != 1:
        raise InputError(
            f"{type(model).__name__}: expected one list of {depth} decoder blocks, found {len(found)}; "
            "this architecture is not supported"
        )
    return found[0]


def _encode(tokenizer: Any, text: str, limit: int) -> list[int]:
    ids: list[int] = tokenizer(text, truncation=True, max_length=limit).input_ids
    return ids


def _batches(
    encoded: list[list[int]], batch_size: int, device: Any
) -> Iterator[tuple["torch.Tensor", "torch.Tensor"]]:
    """Yield (ids, mask), each (batch, longest), of texts sorted by length so that little is padded."""
    import torch

    order = sorted(encoded, key=len, reverse=True)
    for i in range(0, len(order), batch_size):
        part = order[i : i + batch_size]
        longest = len(part[0])
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in part], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in part], device=device)
        yield ids, mask


def _block_states(model: Any, depth: int, ids: "torch.Tensor", mask: "torch.Tensor") -> "list[torch.Tensor]":
    """Return the states before every block and after the last: depth + 1 tensors (batch, seq, d)."""
    states: list[torch.Tensor] = []

    def before(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    def after(_module: Any, _args: Any, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    blocks = decoder_blocks(model, depth)
    hooks = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    hooks.append(blocks[-1].register_forward_hook(after))
    try:
        # The backbone is enough: logits over the vocabulary would only cost time and memory.
        model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return states


def _angles(final: "torch.Tensor") -> "torch.Tensor":
    """Return arccos(cosine)/pi summed over the batch, (n, n), from states (n, batch, d)."""
    import torch

    unit = torch.nn.functional.normalize(final, dim=-1).transpose(0, 1)  # (batch, n, d)
    cosine = (unit @ unit.transpose(1, 2)).clamp(-1, 1)
    return (torch.arccos(cosine).double() / torch.pi).sum(dim=0)
