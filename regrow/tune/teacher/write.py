"""One forward pass of the teacher over the examples; of each position the k most probable tokens are kept."""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from regrow import device as devices
from regrow.checkpoint import Checkpoint
from regrow.errors import InputError, RegrowError
from regrow.tune.data import Examples, loss_positions
from regrow.tune.teacher.store import Settings, bounds, is_whole, shard_file, write_shard
from regrow.tune.teacher.vocabulary import vocabulary_size

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
# Logits that exist at one time: 64 MiB in float32.
_LOGITS = 2**24


def write_top_k(
    teacher: Checkpoint,
    tokens: list[list[int]],
    prompts: list[int],
    out: Path,
    *,
    k: int,
    temperature: float = 1.0,
    shard_size: int = 64,
    max_tokens: int = 4096,
    dtype: str = "auto",
    device: str | None = None,
    rank: int = 0,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the teacher's top-k log-probabilities at the positions whose next token has a loss.

    An interrupted run is continued: shards that are whole stay as they are. A shard does not depend on the others
    nor on which process made it, so several processes share the work without talking to each other.

    Args:
        teacher: the model.
        tokens: token ids of each example.
        prompts: how many of them have no loss.
        out: folder of the store; made if missing.
        k: tokens kept for a position. About 6 k bytes of disk for each.
        temperature: the logits are divided by it before the softmax.
        shard_size: examples in a shard, the work that a kill can cost.
        max_tokens: tokens in one forward pass, padding included; a longer example goes alone.
        dtype: type to compute in, as in `Checkpoint.load`.
        device: where to compute; CUDA when there is one if not given.
        rank: this process makes the shards i with i % processes == rank.
        processes: how many share the work.
        progress: called with this process's finished examples and all its examples.

    Raises:
        InputError: settings or examples that cannot be, or a folder that holds something else.
        RegrowError: the teacher's logits are not finite numbers, or its output is made in an unknown way.
    """
    settings = _settings(teacher, tokens, prompts, k, temperature, shard_size, dtype, device)
    if max_tokens < 1:
        raise InputError(f"max_tokens: {max_tokens} is not at least 1")
    if not 0 <= rank < processes:
        raise InputError(f"rank: {rank} is not one of {processes} processes")
    settings.claim(out, rank)
    shares = range(rank, settings.shards, processes)
    total = sum(len(settings.part(shard)) for shard in shares)
    done = 0
    model: _Teacher | None = None
    for shard in shares:
        part = settings.part(shard)
        texts, starts = tokens[part.start : part.stop], prompts[part.start : part.stop]
        file, offsets = shard_file(out, shard), bounds(texts, starts)
        if is_whole(file, settings, shard, offsets):
            done += len(part)
            if progress:
                progress(done, total)
            continue
        if file.exists():
            log.warning("%s: damaged; this shard is written again", file)
        model = model or _Teacher(teacher, device, settings)
        write_shard(file, _shard(model, texts, starts, offsets, max_tokens, done, total, progress))
        done += len(part)


def _settings(
    teacher: Checkpoint,
    tokens: list[list[int]],
    prompts: list[int],
    k: int,
    temperature: float,
    shard_size: int,
    dtype: str,
    device: str | None,
) -> Settings:
    vocabulary = vocabulary_size(teacher)
    if not 1 <= k <= vocabulary:
        raise InputError(f"k: {k} is not between 1 and the teacher's vocabulary of {vocabulary} tokens")
    if not 0 < temperature < float("inf"):
        raise InputError(f"temperature: {temperature} is not a positive number")
    if shard_size < 1:
        raise InputError(f"shard_size: {shard_size} is not at least 1")
    if not tokens:
        raise InputError("tokens: no examples; there is nothing to write")
    if len(tokens) != len(prompts):
        raise InputError(f"prompts: {len(prompts)} for {len(tokens)} examples; give one for each")
    for number, ids in enumerate(tokens):
        if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
            raise InputError(
                f"example {number}: token {max(ids) if min(ids) >= 0 else min(ids)} is not one of the "
                f"teacher's {vocabulary}; the examples were made with another tokenizer"
            )
    return Settings(
        teacher=teacher.digest,
        data=Examples(tokens=tokens, prompts=prompts).digest,
        examples=len(tokens),
        k=k,
        temperature=temperature,
        vocabulary=vocabulary,
        shard_size=shard_size,
        dtype=str(teacher.compute_dtype(dtype, device or devices.device())).removeprefix("torch."),
    )


def _shard(
    model: "_Teacher",
    tokens: Sequence[list[int]],
    prompts: Sequence[int],
    offsets: list[int],
    max_tokens: int,
    done: int,
    total: int,
    progress: Callable[[int, int], None] | None,
) -> "dict[str, torch.Tensor]":
    import torch

    k, rows = model.settings.k, offsets[-1]
    content = {
        "ids": torch.empty((rows, k), dtype=torch.int32),
        "logprobs": torch.empty((rows, k), dtype=torch.float16),
        "mass": torch.empty(rows, dtype=torch.float32),
        "offsets": torch.tensor(offsets, dtype=torch.int64),
    }
    ready = done + sum(begin == end for begin, end in pairwise(offsets))
    if progress and ready > done:
        progress(ready, total)
    for group in _batches([len(ids) for ids in tokens], offsets, max_tokens):
        where = [loss_positions(prompts[i], len(tokens[i])) for i in group]
        ids, logprobs, mass = model.top_k([tokens[i] for i in group], where)
        begins = accumulate(map(len, where), initial=0)
        for i, begin, size in zip(group, begins, map(len, where), strict=False):
            content["ids"][offsets[i] : offsets[i + 1]] = ids[begin : begin + size]
            content["logprobs"][offsets[i] : offsets[i + 1]] = logprobs[begin : begin + size]
            content["mass"][offsets[i] : offsets[i + 1]] = mass[begin : begin + size]
        ready += len(group)
        if progress:
            progress(ready, total)
    return content


def _batches(lengths: list[int], offsets: list[int], max_tokens: int) -> Iterator[list[int]]:
    """Group examples of similar length that have positions to write."""
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if offsets[i] == offsets[i + 1]:
            continue
        if group and (len(group) + 1) * lengths[group[0]] > max_tokens:
            yield group
            group = []
        group.append(i)
    if group:
        yield group


class _Teacher:
    """A loaded model that gives top-k log-probabilities, a few rows of logits at a time."""

    def __init__(self, teacher: Checkpoint, device: str | None, settings: Settings) -> None:
        from regrow.tune.losses.head import head_of
        from regrow.tune.states import Probe

        self.model = teacher.load(dtype=settings.dtype, device=device)
        self.settings = settings
        self.head = head_of(self.model)
        self._probe = Probe(self.model, teacher.blocks)
        self._checked = False

    def top_k(
        self, texts: list[list[int]], where: list[range]
    ) -> "tuple[torch.Tensor, torch.Tensor, torch.Tensor]":
        """Return tokens, log-probabilities and their log mass at the wanted positions of each text, in order."""
        import torch

        k, temperature = self.settings.k, self.settings.temperature
        with torch.inference_mode():
            states = self._states(texts)
            rows = torch.cat([states[i, each.start : each.stop] for i, each in enumerate(where)])
            found = []
            for some in torch.split(rows, max(1, _LOGITS // self.settings.vocabulary)):
                scores = self.head.logits(some).float() / temperature
                whole = scores.logsumexp(-1, keepdim=True)
                if not torch.isfinite(whole).all():
                    raise RegrowError(
                        f"the teacher's logits are not finite numbers in {self.settings.dtype}; "
                        "compute in bfloat16 or float32, or check the checkpoint"
                    )
                best, ids = scores.topk(k)
                best -= whole
                found.append((ids.int().cpu(), best.half().cpu(), best.logsumexp(-1).cpu()))
        ids, logprobs, mass = (torch.cat(each) for each in zip(*found, strict=True))
        return ids, logprobs, mass

    def _states(self, texts: list[list[int]]) -> "torch.Tensor":
        """Return what goes into the output head, (texts, longest, width)."""
        import torch

        from regrow.tune.batches import padded

        ids = [torch.tensor(text, device=self.model.device) for text in texts]
        mask = padded([torch.ones_like(row) for row in ids], 0)
        output = self.model(input_ids=padded(ids, 0), attention_mask=mask, use_cache=False)
        states = self._probe.taken().last
        if states.shape[:2] != mask.shape:
            raise RegrowError(f"{type(self.model).__name__}: its output head is not called for all positions")
        if not self._checked:
            self._check(states[:, 0], output.logits[:, 0])
        return states

    def _check(self, state: "torch.Tensor", theirs: "torch.Tensor") -> None:
        """Compare our logits with the model's own, which may do something after the head that we do not know."""
        ours = self.head.logits(state).float()
        theirs = theirs.float()
        tolerance = 1e-3 if self.settings.dtype == "float32" else 3e-2
        if float((ours - theirs).abs().max()) > tolerance * float(theirs.abs().max()):
            raise RegrowError(
                f"{type(self.model).__name__}: it changes its logits after the output head in an unknown way; "
                "distil with the teacher online"
            )
        self._checked = True
