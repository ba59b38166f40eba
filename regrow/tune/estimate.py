"""What a training run will need, before it starts: memory by what takes it, and time.

What a forward and backward pass needs is counted by carrying it out without content (`regrow.tune.rehearsal`); no
weight is read. What cannot be counted that way was measured, and stands in the constants below.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import median
from typing import TYPE_CHECKING, Any

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.tune.data import order
from regrow.tune.recipe import Distill, Lora, Sft

if TYPE_CHECKING:
    from regrow.tune.rehearsal import Cost, Shape

# Measured with runs of two steps of the worker (torch 2.13, transformers 5.23, TRL 1.16; CPU with AVX-512 BF16, two
# cores) on SmolLM2-135M, at 1 to 8 examples of 128 to 512 tokens: resident after all imports 526 to 540 MiB.
# On a GPU, where the libraries' kernels and CUDA's context take memory too: an allowance, not measured.
_LIBRARIES = {"cpu": 540 * 2**20, "cuda": 600 * 2**20}
# What the allocator holds and cannot give again, as a share of the activations of a pass that keeps them all. glibc's
# malloc on a CPU: measured 0.27 to 0.63, the largest with gradient checkpointing, whose freed tensors lie between
# kept ones. On a GPU: an allowance, not measured.
_UNUSABLE = {"cpu": 0.6, "cuda": 0.1}
# Share of the speeds of `probed_speed` that training reached, in CPU time of the same runs: 0.55 (packed, whose
# mask slows attention) to 1.1 (gradient checkpointing), their geometric mean. On a GPU not measured.
_EFFICIENCY = 0.75
_FLOAT = 4  # bytes of a trained weight, of its gradient, and of each of AdamW's two moments
_GIB = 2**30


@dataclass(frozen=True)
class Estimate:
    """What one process of a run needs, on a CPU all processes of the machine together.

    Attributes:
        parts: bytes at the peak, by what takes them.
        seconds: of the training steps, without start, teacher's file and merge.
    """

    parts: dict[str, int]
    seconds: float

    @property
    def bytes(self) -> int:
        """Bytes at the peak."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class Setting:
    """A training run, as far as it decides what is needed.

    Attributes:
        parent: the model that is tuned.
        recipe: how.
        lengths: tokens of each example.
        micro_batch_size: examples in one forward pass of one process.
        dtype: torch type of the frozen weights, which is computed in.
        device: cpu or cuda.
        processes: processes that share a step; on a CPU all of them share the machine's memory.
        sharded: whether FSDP spreads weights and optimiser over the processes.
        teacher: the unpruned model, for distillation.
        learned: share of the tokens that have a loss; it decides how long the head takes.
    """

    parent: Checkpoint
    recipe: Sft | Distill
    lengths: Sequence[int]
    micro_batch_size: int
    dtype: str
    device: str
    processes: int = 1
    sharded: bool = False
    teacher: Checkpoint | None = None
    learned: float = 1.0

    def alternatives(self) -> "Iterator[Setting]":
        """Yield what needs less memory and can be done here, the mildest first; the batch stays."""
        recipe = self.recipe
        if not recipe.gradient_checkpointing:
            yield self._with(gradient_checkpointing=True)
        if isinstance(recipe, Distill) and recipe.teacher == "online":
            states = recipe.hidden_states or recipe.embeddings  # which top_k does not keep
            yield from () if states else (self._with(teacher="top_k"),)
        if self.device == "cuda" and self.processes > 1 and not self.sharded:
            yield replace(self, sharded=True)
        kind = recipe.trainable.kind
        if kind in ("full", "head_and_last_k"):
            yield self._with(trainable=Lora())
        if kind != "qlora" and self.device == "cuda" and not self.sharded:
            lora = recipe.trainable if isinstance(recipe.trainable, Lora) else Lora()
            yield self._with(trainable=lora.model_copy(update={"kind": "qlora"}))

    def _with(self, **changes: Any) -> "Setting":
        return replace(self, recipe=self.recipe.model_copy(update=changes))

    def against(self, other: "Setting") -> str:
        """Say in what this run differs from another one."""
        mine, theirs = self.recipe, other.recipe
        words = []
        if self.micro_batch_size != other.micro_batch_size:
            words.append(f"micro_batch_size {self.micro_batch_size}")
        if mine.gradient_checkpointing != theirs.gradient_checkpointing:
            words.append("gradient_checkpointing")
        if getattr(mine, "teacher", None) != getattr(theirs, "teacher", None):
            words.append("teacher top_k")
        if self.sharded != other.sharded:
            words.append("sharding fsdp")
        if mine.trainable.kind != theirs.trainable.kind:
            words.append(f"trainable.kind {mine.trainable.kind}")
        return " with ".join([words[0], " and ".join(words[1:])]) if words[1:] else words[0]


def estimate(setting: Setting) -> Estimate:
    """Estimate the memory and the time of a run.

    Raises:
        InputError: the model has not what the recipe trains.
    """
    from regrow.tune import rehearsal

    recipe, teacher, dtype, device = setting.recipe, setting.teacher, setting.dtype, setting.device
    batches = _batches(setting.lengths, recipe, setting.micro_batch_size)
    worst = max(batches, key=lambda batch: batch.tokens(recipe.packing))
    online = teacher if isinstance(recipe, Distill) and recipe.teacher == "online" else None
    shape = worst.shape(recipe.packing)
    key = what_counts(recipe)
    cost = rehearsal.cost(setting.parent, online, key, dtype, shape)
    keeping = key.model_copy(update={"gradient_checkpointing": False})
    kept = rehearsal.cost(setting.parent, online, keeping, dtype, shape).activations
    parts = memory_parts(cost, kept, device, setting.processes, setting.sharded)
    if teacher and isinstance(recipe, Distill) and not online:
        # The teacher writes first, and is gone when the student comes.
        first = _stored_bytes(teacher, dtype) + parts["libraries"]
        if (more := first - sum(parts.values())) > 0:
            parts["teacher"] = more
    if device == "cpu":
        parts = {name: count * setting.processes for name, count in parts.items()}
    return Estimate(
        {name: count for name, count in parts.items() if count},
        _seconds(cost, worst, batches, recipe, setting.learned, dtype, device, setting.processes),
    )


def divisors(number: int) -> list[int]:
    """Return the divisors of a number, smallest first."""
    return [n for n in range(1, number + 1) if number % n == 0]


def largest_micro_batch(setting: Setting, share: int, available: int) -> int:
    """Return how many examples of a step fit into one forward pass; 1 if not even one does.

    Args:
        setting: the run; its own `micro_batch_size` has no say.
        share: examples of a step that one process has; the answer divides it.
        available: bytes that may be used.
    """
    sizes = divisors(share)
    low, high = 0, len(sizes)  # sizes[:low] fit, sizes[high:] do not
    while low < high:
        middle = (low + high) // 2
        if estimate(replace(setting, micro_batch_size=sizes[middle])).bytes <= available:
            low = middle + 1
        else:
            high = middle
    return sizes[max(low - 1, 0)]


def check(setting: Setting, expected: Estimate, share: int, available: int) -> None:
    """Refuse a run that does not fit, and name what would make it fit.

    Args:
        setting: the run as it is asked for.
        expected: its estimate.
        share: examples of a step that one process has.
        available: bytes that may be used.

    Raises:
        InputError: it does not fit; every remedy that the message names was estimated, and fits.
    """
    if expected.bytes <= available:
        return

    def fits(other: Setting) -> bool:
        return estimate(other).bytes <= available

    named = []
    size = largest_micro_batch(setting, share, available)
    if size < setting.micro_batch_size and fits(smaller := replace(setting, micro_batch_size=size)):
        named.append(smaller.against(setting))
    named += [other.against(setting) for other in setting.alternatives() if fits(other)]
    if not named:
        # One remedy is not enough: the batch as small as can be, together with others.
        one = replace(setting, micro_batch_size=1)
        candidates = [other for first in one.alternatives() for other in (first, *first.alternatives())]
        named = [other.against(setting) for other in candidates if fits(other)][:2]
    what = ", or ".join(dict.fromkeys(named))
    remedy = f"use {what}" if what else "use a smaller model, shorter max_length or a larger device"
    raise InputError(
        f"recipe: needs {_gib(expected.bytes)}, this device has {_gib(available)} free: {remedy}"
    )


def _gib(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB / 10 else f"{count / 2**20:.0f} MiB"


@dataclass(frozen=True)
class _Batch:
    """The examples of one forward pass, by their tokens."""

    lengths: tuple[int, ...]

    def tokens(self, packed: bool) -> int:
        return sum(self.lengths) if packed else len(self.lengths) * max(self.lengths)

    def pairs(self, packed: bool) -> int:
        """Pairs of positions that attention computes with."""
        return sum(self.lengths) ** 2 if packed else len(self.lengths) * max(self.lengths) ** 2

    def shape(self, packed: bool) -> "Shape":
        from regrow.tune.rehearsal import Shape

        if packed:
            return Shape(1, sum(self.lengths), masked=len(self.lengths) > 1)
        return Shape(len(self.lengths), max(self.lengths), masked=len(set(self.lengths)) > 1)


def _batches(lengths: Sequence[int], recipe: Sft | Distill, size: int) -> list[_Batch]:
    """Return the forward passes of the whole run, of all processes."""
    turns = order(lengths, recipe)
    return [
        _Batch(tuple(lengths[i] for i in turns[start : start + size])) for start in range(0, len(turns), size)
    ]


def what_counts(recipe: Sft | Distill) -> Sft | Distill:
    """Return the recipe with whatever changes nothing in a forward pass at its default; a key for the cache."""
    names = {
        "trainable",
        "gradient_checkpointing",
        "temperature",
        "hidden_states",
        "embeddings",
        "teacher",
        "top_k",
    }
    return type(recipe)(**{name: getattr(recipe, name) for name in names if hasattr(recipe, name)})


def memory_parts(cost: "Cost", kept: int, device: str, processes: int, sharded: bool) -> dict[str, int]:
    """Return the bytes that training takes at most on one device, by what they are for.

    Args:
        cost: of the largest forward and backward pass, and of the weights.
        kept: bytes that this pass keeps, of which the allocator cannot use all again.
        device: cpu or cuda.
        processes: that share a step.
        sharded: whether FSDP spreads weights, gradients and optimiser over them.
    """
    trained = cost.trained * _FLOAT
    over = processes if sharded else 1
    parts = {
        "libraries": _LIBRARIES[device],
        "weights": cost.frozen_bytes // over,
        "trained": trained // over,
        "gradients": trained // over,
        "optimizer": 2 * trained // over,
        "activations": cost.activations,
        "head": cost.head,
        "teacher": cost.teacher_bytes + cost.teacher_work,
        "allocator": int(kept * _UNUSABLE[device]),
        # DDP copies gradients into buckets; FSDP holds a block's weights whole, and fetches the next one meanwhile.
        "exchange": (2 * cost.largest_block + cost.outside if sharded else trained) if processes > 1 else 0,
    }
    # On a GPU AdamW makes copies of all it updates at once, when activations are gone.
    stepping = trained // over if device == "cuda" else 0
    parts["optimizer"] += max(0, stepping - parts["activations"] - parts["head"])
    return parts


def _stored_bytes(checkpoint: Checkpoint, dtype: str) -> int:
    import torch

    return int(checkpoint.parameters * getattr(torch, dtype).itemsize)


def _seconds(
    cost: "Cost",
    worst: _Batch,
    batches: list[_Batch],
    recipe: Sft | Distill,
    learned: float,
    dtype: str,
    device: str,
    processes: int,
) -> float:
    packed = recipe.packing
    tokens = sum(batch.tokens(packed) for batch in batches) / worst.tokens(packed)
    pairs = sum(batch.pairs(packed) for batch in batches) / worst.pairs(packed)
    head = learned * sum(sum(batch.lengths) for batch in batches) / worst.tokens(packed)
    operations = cost.operations * tokens + cost.attention * pairs + cost.of_head * head
    speed, bandwidth = probed_speed(dtype, device)
    # AdamW writes gradient, weight, two moments and as many intermediate values for every weight of a step.
    steps = len(batches) * len(worst.lengths) / recipe.batch_size
    written = cost.written * tokens + steps * cost.trained * _FLOAT * 8
    # The processes of a CPU share it.
    machines = processes if device == "cuda" else 1
    return (operations / speed + written / bandwidth) / _EFFICIENCY / machines


@lru_cache(maxsize=8)
def probed_speed(dtype: str, device: str) -> tuple[float, float]:
    """Return this machine's operations a second in products of matrices, and bytes written a second by all else.

    The second is on tensors so large that the allocator asks the system for them, as it does in training.
    """
    import torch

    wide, size = (8192, 2**28) if device == "cuda" else (1024, 2**26)
    a = torch.randn(wide, wide, device=device).to(getattr(torch, dtype))
    b = torch.ones(size // 4, device=device)
    return 2 * wide**3 / _typical(lambda: a @ a, device), size / _typical(lambda: b * b, device)


def _typical(work: "Callable[[], Any]", device: str) -> float:
    """Return how long the work takes, in seconds: the median within 0.1 s."""
    import torch

    taken: list[float] = []
    until = time.perf_counter() + 0.1
    while len(taken) < 3 or time.perf_counter() < until:
        before = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - before)
    return median(taken)
