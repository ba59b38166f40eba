"""What fine-tuning needs: the rehearsal of `regrow.tune` counts weights, activations and operations of one pass.

Devices are added (FSDP, by powers of two) until a process fits into `_SHARE` of its device; each of them loads the
whole parent into host memory first. After training, one process proves the merged checkpoint with one float32 model
at a time on its device.
"""

from dataclasses import dataclass, replace
from math import ceil

from regrow.capacity.device import Device
from regrow.capacity.forward import Data
from regrow.capacity.model import CONTEXT, LIBRARIES, sizes
from regrow.capacity.need import GIB, Need, Work
from regrow.capacity.paper import Paper
from regrow.errors import InputError
from regrow.tune.estimate import divisors, memory_parts, what_counts
from regrow.tune.prepare import share_of
from regrow.tune.recipe import Distill, Recipe, Sft, TeacherCorrection
from regrow.tune.rehearsal import Cost, Shape, cost

_SHARE = 0.9
_MOST = 64
_FLOAT = 4


@dataclass(frozen=True)
class _Run:
    """A single training run, as far as memory and operations go."""

    recipe: Sft | Distill
    rows: int
    length: int
    steps: int

    @property
    def shape(self) -> Shape:
        if self.recipe.packing:
            return Shape(1, self.rows * self.length, masked=self.rows > 1)
        return Shape(self.rows, self.length, masked=False)


def fine_tune(
    parent: Paper,
    teacher: Paper | None,
    data: Data,
    recipe: Recipe,
    device: Device,
    *,
    gpus: int | None = None,
    pods: int = 1,
) -> Need:
    """What a recipe needs on so many devices; as few as it fits on if not given.

    Args:
        parent: the model that is tuned.
        teacher: the unpruned model, for methods that distil from it.
        data: what it is tuned on.
        recipe: how.
        device: what it computes on.
        gpus: of all pods together.
        pods: that share the training, and the devices evenly; each has memory of its own.

    Raises:
        InputError: the recipe is a chain of two sets, or trains what the model has not.
    """
    if isinstance(recipe, TeacherCorrection):
        assert teacher is not None
        first = fine_tune(teacher, None, data, recipe.correction, device, gpus=gpus, pods=pods)
        second = fine_tune(parent, teacher, data, recipe.distillation(), device, gpus=gpus, pods=pods)
        chained = _chained(first, second)
        if pods == 1:
            return chained
        alone = f"method {recipe.method}: its two phases cannot share one call on several machines"
        return replace(chained, warnings=(*chained.warnings, alone))
    if not isinstance(recipe, Sft | Distill):
        raise InputError(f"tune.method {recipe.method}: cannot be planned; plan its phases one by one")
    dtype = sizes(parent, device, recipe.dtype).dtype
    dtype = "float32" if dtype == "float16" else dtype
    online = teacher if isinstance(recipe, Distill) and recipe.teacher == "online" else None
    for count in _counts(recipe, gpus if device.kind == "cuda" else 1):
        run = _fitted(parent, online, data, recipe, dtype, device, count)
        parts = _of_one(parent, online, run, dtype, device, count)
        if sum(parts.values()) <= _SHARE * device.memory:
            break
    counted = _at_most(parent, online, run, dtype)
    passes = run.steps * recipe.batch_size / run.rows
    # The rehearsal read examples of max_length. Attention goes with the square of the length, all else with it.
    shorter = run.length / recipe.max_length
    share = data.response / data.conversation
    flops = counted.operations + share * counted.of_head + shorter * counted.attention
    flops, written = passes * shorter * flops, passes * shorter * counted.written
    work = [Work("train", flops, written)]
    if teacher is not None and online is None:
        seen = min(data.records, run.steps * recipe.batch_size) * run.length
        work.append(sizes(teacher, device, dtype).reads(seen, run.length, 8 * run.length))
    proof = 4 * parent.parameters
    notes = [f"{run.rows} examples in a forward pass", "proof with one float32 model of " + _gib(proof)]
    warnings = [refused] if (refused := _refused(recipe, count)) else []
    if proof > device.memory:
        warnings.append(
            f"the proof does not fit on one device: after training it needs {_gib(proof)}, the device has "
            f"{_gib(device.memory)}, and the run ends there"
        )
    each = ceil(count / pods)
    kept = recipe.keep * 3 * counted.trained * _FLOAT
    on_device = {name: value * count for name, value in parts.items() if value}
    return Need(
        device=on_device,
        host={
            "libraries": LIBRARIES * (each + 1 if device.kind == "cuda" else 1),
            "parents": (parent.parameters + (online.parameters if online else 0)) * _item(dtype) * each
            if device.kind == "cuda"
            else 0,
        },
        fetched={"pruned": parent.nbytes, "data": data.nbytes}
        | ({"base": teacher.nbytes} if teacher else {}),
        stored=parent.nbytes,
        scratch=parent.nbytes + kept + data.nbytes + _top_k(recipe, data),
        disk=3 * parent.nbytes + kept + 2 * (teacher.nbytes if teacher else 0),
        work=tuple(work),
        gpus=count,
        spreads="FSDP",
        notes=tuple(notes),
        warnings=tuple(warnings),
    )


def _counts(recipe: Sft | Distill, gpus: int | None) -> list[int]:
    """Return numbers of devices to try: those that divide a step's examples."""
    if gpus is not None:
        return [gpus]
    counts = [2**power for power in range(_MOST.bit_length())]
    return [count for count in counts if not _refused(recipe, count)] or [1]


def _refused(recipe: Sft | Distill, processes: int) -> str:
    """Return the words with which `regrow tune` refuses to share a step between so many processes; empty if it does."""
    try:
        share_of(recipe, processes)
    except InputError as error:
        return str(error)
    return ""


def _fitted(
    parent: Paper,
    online: Paper | None,
    data: Data,
    recipe: Sft | Distill,
    dtype: str,
    device: Device,
    count: int,
) -> _Run:
    """Settle what the recipe leaves open: rows of a forward pass, and steps."""
    length = min(recipe.max_length, data.conversation)
    share = max(1, recipe.batch_size // count)
    if recipe.max_steps is not None:
        steps = recipe.max_steps
    elif recipe.max_tokens is not None:
        steps = ceil(recipe.max_tokens / (length * recipe.batch_size))
    else:
        steps = ceil(recipe.epochs * data.records / recipe.batch_size)
    if recipe.micro_batch_size != "auto":
        return _Run(recipe, min(share, recipe.micro_batch_size or share), length, steps)
    for rows in reversed(divisors(share)):
        run = _Run(recipe, rows, length, steps)
        if sum(_of_one(parent, online, run, dtype, device, count).values()) <= _SHARE * device.memory:
            return run
    return run


def _at_most(parent: Paper, online: Paper | None, run: _Run, dtype: str, *, keeping: bool = False) -> Cost:
    """Rehearse a pass in which every example is as long as the recipe allows.

    Recipes that differ in what changes nothing in a pass, such as a hundred learning rates, are rehearsed once.
    """
    recipe = what_counts(run.recipe)
    if keeping:
        recipe = recipe.model_copy(update={"gradient_checkpointing": False})
    return cost(parent, online, recipe, dtype, replace(run, length=run.recipe.max_length).shape)


def _of_one(
    parent: Paper, online: Paper | None, run: _Run, dtype: str, device: Device, count: int
) -> dict[str, int]:
    """Bytes of one process at its longest pass."""
    kept = _at_most(parent, online, run, dtype, keeping=True).activations
    counted = _at_most(parent, online, run, dtype)
    parts = memory_parts(counted, kept, device.kind, count, count > 1)
    return parts | ({"libraries": CONTEXT} if device.kind == "cuda" else {})


def _top_k(recipe: Sft | Distill, data: Data) -> int:
    """Bytes of a teacher's file: an index of four bytes and a number of two for each kept log-probability."""
    if not (isinstance(recipe, Distill) and recipe.teacher == "top_k"):
        return 0
    return data.records * data.response * recipe.top_k * 6


def _chained(first: Need, second: Need) -> Need:
    """Two phases in turn: the larger memory, the sum of the work."""
    larger = max(first, second, key=lambda one: one.device_bytes)
    return Need(
        device=larger.device, host=larger.host, fetched=first.fetched | second.fetched, stored=second.stored,
        scratch=first.scratch + second.scratch, disk=first.disk + second.disk, work=first.work + second.work,
        gpus=max(first.gpus, second.gpus), spreads=second.spreads, notes=second.notes,
        warnings=tuple(dict.fromkeys((*first.warnings, *second.warnings))),
    )  # fmt: skip


def _item(dtype: str) -> int:
    return 4 if dtype == "float32" else 2


def _gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
