"""One forward and backward pass of a model, adapter and loss on tensors that have a shape and a type but no content.

torch's fake tensors run the real code, so that nothing has to be said here about architectures, about what autograd
keeps, or about autocast; every byte that is alive is counted. Blocks that are alike cost alike: the pass runs over
one block of each sort, and once more with a second one of the sort, and the difference stands for the others.

Device-independent: the pass is that of a CPU, whose fused attention keeps what a GPU's keeps.
Imported where an estimate is made: it pulls in torch.
"""

import math
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from regrow.anatomy import decoder_blocks
from regrow.checkpoint import Checkpoint
from regrow.tune import losses, parameters
from regrow.tune.objective import in_type
from regrow.tune.recipe import Distill, Lora, Sft
from regrow.tune.states import Probe

# NF4 with double quantization (arXiv 2305.14314): 4 bits, 8 bits for each 64 weights, 32 for each 256 of these.
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class Shape:
    """The input of a forward pass."""

    rows: int
    length: int
    masked: bool  # whether attention is told by a (length x length) mask; otherwise it is plainly causal


@dataclass(frozen=True)
class Cost:
    """One forward and backward pass: bytes, operations (a multiplication with an addition is two), bytes written."""

    trained: int = 0  # number of weights that train
    frozen_bytes: int = 0
    teacher_bytes: int = 0
    largest_block: int = 0  # bytes
    outside: int = 0  # bytes of what is in no block
    activations: int = 0  # alive between forward and backward, or more while a block is computed
    head: int = 0  # on top of it while the loss is computed
    teacher_work: int = 0  # on top of both while the teacher computes
    operations: int = 0
    attention: int = 0
    of_head: int = 0
    written: int = 0


@dataclass
class _Pass:
    """What was seen in a pass: bytes alive at the end of a stage or at its peak, operations by what they are of."""

    kept: int = 0
    forward: int = 0
    teacher: int = 0
    loss: int = 0
    backward: int = 0
    operations: int = 0
    attention: int = 0
    of_head: int = 0
    written: int = 0

    def plus(self, factor: int, one: "_Pass", other: "_Pass") -> "_Pass":
        """Return self + factor * (one - other)."""
        return _Pass(**{
            name: value + factor * (getattr(one, name) - getattr(other, name))
            for name, value in vars(self).items()
        })  # fmt: skip


@lru_cache(maxsize=64)
def cost(
    parent: Checkpoint, teacher: Checkpoint | None, recipe: Sft | Distill, dtype: str, shape: Shape
) -> Cost:
    """Return what one forward and backward pass costs, and how many weights there are.

    Args:
        parent: the model that is tuned.
        teacher: the model that runs beside it, if one does.
        recipe: how it is tuned.
        dtype: torch type of frozen weights, which is computed in.
        shape: the input of the pass.

    Raises:
        InputError: the model has not what the recipe trains.
    """
    student = _student(parent, recipe, dtype)
    other = _bare(teacher, dtype) if teacher else None
    seen = _extrapolated(student, other, recipe, dtype, shape)
    # Each stage counts what it needs beyond the earlier ones.
    head = max(0, seen.loss - seen.kept)
    work = max(0, seen.teacher - seen.kept - head)
    more = max(0, max(seen.forward, seen.backward) - seen.kept - head - work)
    return replace(
        student.cost,
        teacher_bytes=other.cost.frozen_bytes if other else 0,
        activations=seen.kept + more,
        head=head,
        teacher_work=work,
        operations=seen.operations,
        attention=seen.attention,
        of_head=seen.of_head,
        written=seen.written,
    )


@dataclass(frozen=True)
class _Model:
    """A model without content, and its blocks by sort: equal ones cost equally."""

    model: Any
    blocks: tuple[Any, ...]
    sorts: tuple[Any, ...]
    cost: Cost = field(default_factory=Cost)

    @property
    def causal(self) -> Any:
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def counts(self) -> "Counter[Any]":
        return Counter(self.sorts)

    def some(self, wanted: "Counter[Any]") -> list[int]:
        """Numbers of blocks, in their order: that many of each sort."""
        left, chosen = Counter(wanted), []
        for number, sort in enumerate(self.sorts):
            if left[sort]:
                left[sort] -= 1
                chosen.append(number)
        return chosen


@lru_cache(maxsize=4)
def _bare(checkpoint: Checkpoint, dtype: str) -> _Model:
    """A frozen model."""
    model = _empty(checkpoint, dtype).requires_grad_(False).eval()
    return _sorted(model, checkpoint)


@lru_cache(maxsize=8)
def _student(parent: Checkpoint, recipe: Sft | Distill, dtype: str) -> _Model:
    """The model as `regrow.tune.parameters` makes it ready for training."""
    spec = recipe.trainable
    model = _empty(parent, dtype)
    four_bits = isinstance(spec, Lora) and spec.kind == "qlora"
    if four_bits:
        _widen_unquantized(model)
    model = parameters.make_trainable(model, spec, parent, checkpointing=recipe.gradient_checkpointing)
    return _sorted(model, parent, four_bits=four_bits)


def _empty(checkpoint: Checkpoint, dtype: str) -> Any:
    """Return the model with weights that have a shape and a type alone."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), trust_remote_code=False)
    model.config.use_cache = False
    return model


def _quantized(model: Any) -> set[int]:
    """Return ids of the weights that bitsandbytes holds in 4 bits: those of linear layers, but for the head."""
    head = model.get_output_embeddings()
    return {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }


def _widen_unquantized(model: Any) -> None:
    """Make float32 of what is not quantized, as PEFT prepares models in 4 bits."""
    quantized = _quantized(model)
    for weight in model.parameters():
        if id(weight) not in quantized:
            weight.data = weight.data.float()


def _sorted(model: Any, checkpoint: Checkpoint, *, four_bits: bool = False) -> _Model:
    """Tell which blocks are alike, and count weights."""
    causal = model.get_base_model() if hasattr(model, "peft_config") else model
    blocks = tuple(decoder_blocks(causal, checkpoint.blocks))
    kinds = getattr(causal.config.get_text_config(), "layer_types", None) or [None] * len(blocks)
    # Autograd keeps nothing of a block below everything that trains.
    below = not any(weight.requires_grad for weight in causal.get_input_embeddings().parameters())
    sorts = []
    for block, kind in zip(blocks, kinds, strict=True):
        weights = tuple(
            (name, tuple(w.shape), w.dtype, w.requires_grad) for name, w in block.named_parameters()
        )
        below = below and not any(needed for *_, needed in weights)
        sorts.append((below, kind, weights))
    quantized = _quantized(causal) if four_bits else set[int]()

    def size(weight: torch.Tensor) -> int:
        return math.ceil(weight.numel() * (_NF4 if id(weight) in quantized else weight.itemsize))

    in_blocks = [sum(map(size, block.parameters())) for block in blocks]
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    # One matrix at a time is multiplied with in 16 bits.
    widest = max((2 * w.numel() for w in frozen if id(w) in quantized), default=0)
    everything = list(model.parameters())
    cost = Cost(
        trained=sum(weight.numel() for weight in everything if weight.requires_grad),
        frozen_bytes=sum(map(size, frozen)) + widest,
        largest_block=max(in_blocks),
        outside=sum(map(size, everything)) - sum(in_blocks),
    )
    return _Model(model, blocks, tuple(sorts), cost)


def _extrapolated(
    student: _Model, teacher: _Model | None, recipe: Sft | Distill, dtype: str, shape: Shape
) -> _Pass:
    """Return what a pass over all blocks needs, from passes over few."""
    if hasattr(student.model, "prompt_encoder"):
        # Prefix tuning: the prefix has a part for every block, so that none can be left out.
        depths = [list(range(len(model.blocks))) if model else [] for model in (student, teacher)]
        return _one_pass(student, depths[0], teacher, depths[1], recipe, dtype, shape)
    ours = Counter(dict.fromkeys(student.counts, 1))
    theirs = Counter(dict.fromkeys(teacher.counts, 1)) if teacher else Counter[Any]()

    def seen(more: Any = None, of: _Model | None = None) -> _Pass:
        few = student.some(ours + Counter({more: of is student}))
        others = teacher.some(theirs + Counter({more: of is teacher})) if teacher else []
        return _one_pass(student, few, teacher, others, recipe, dtype, shape)

    base = total = seen()
    for model in filter(None, (student, teacher)):
        for sort, count in model.counts.items():
            if count > 1:
                total = total.plus(count - 1, seen(sort, model), base)
    return total


def _one_pass(
    student: _Model,
    few: list[int],
    teacher: _Model | None,
    others: list[int],
    recipe: Sft | Distill,
    dtype: str,
    shape: Shape,
) -> _Pass:
    """Carry out a forward pass, a loss and a backward pass through the named blocks alone."""
    probes = {
        "block": getattr(recipe, "hidden_states", False),
        "embedded": getattr(recipe, "embeddings", False),
    }
    seen = _Pass()
    with ExitStack() as stack:
        fake = FakeTensorMode(allow_non_fake_inputs=True)
        for model, chosen in ((student, few), (teacher, others)):
            if model:
                stack.enter_context(_only(model, chosen))
                stack.enter_context(_faked(model, fake))
        stack.enter_context(fake)
        probe = Probe(student.causal, len(few), **probes)
        stack.callback(probe.remove)
        live = _Live()
        for model in filter(None, (student, teacher)):
            live.ignore(model.model)
        stack.enter_context(live)
        inputs = _inputs(shape, packed=recipe.packing)
        # As accelerate does it: the student's forward pass alone is under autocast.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            student.model(**inputs, use_cache=False)
        states = probe.taken()
        seen.kept = live.now
        seen.forward = live.stage(seen)
        mine = in_type(_learning(states.last), losses.head_of(student.causal))
        if teacher:
            theirs_probe = Probe(teacher.causal, len(others), **probes)
            stack.callback(theirs_probe.remove)
            with torch.no_grad():
                teacher.model(**inputs, use_cache=False)
            theirs = theirs_probe.taken()
            seen.teacher = live.stage(seen)
            other = in_type(_learning(theirs.last), losses.head_of(teacher.causal))
            loss = losses.forward_kl(*mine, *other, temperature=getattr(recipe, "temperature", 1.0))
            for a, b in ((states.block, theirs.block), (states.embedded, theirs.embedded)):
                if a is not None and b is not None:
                    loss = loss + losses.hidden_cosine(_learning(a), _learning(b))
            del theirs, other
        else:
            loss = losses.nll(*mine, torch.zeros(len(mine[0]), dtype=torch.long))
        seen.of_head = live.operations
        seen.loss = live.stage(None)
        del states, mine
        torch.autograd.backward(loss)
        seen.backward = live.stage(seen)
        seen.written = live.written
    return seen


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts bytes that are alive, and operations, of what is made while it is on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = self.operations = self.attention = self.written = 0
        self._known: set[int] = set()

    def ignore(self, model: torch.nn.Module) -> None:
        """Leave out weights and their gradients, which are counted elsewhere; views of them are outputs too."""
        for tensor in (*model.parameters(), *model.buffers()):
            self._known.add(tensor.untyped_storage()._cdata)
            if tensor.grad is not None:
                self._known.add(tensor.grad.untyped_storage()._cdata)

    def stage(self, into: _Pass | None) -> int:
        """Add the operations since the last stage; return the peak since then."""
        if into:
            into.operations += self.operations
            into.attention += self.attention
        peak, self.peak, self.operations, self.attention = self.peak, self.now, 0, 0
        return peak

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        packet = function._overloadpacket
        if "attention" in packet.__name__:
            self.attention += _of_attention(packet.__name__, args)
        elif packet in flop_registry:
            self.operations += flop_registry[packet](*args, **(kwargs or {}), out_val=out)
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.now += size
        self.written += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _of_attention(name: str, args: Any) -> int:
    """Operations of fused attention: two products forward, five backward."""
    backward = "backward" in name
    query, key = (args[1], args[2]) if backward else (args[0], args[1])
    return int((10 if backward else 4) * query.numel() * key.shape[-2])


def _inputs(shape: Shape, *, packed: bool) -> dict[str, torch.Tensor | None]:
    ids = torch.zeros((shape.rows, shape.length), dtype=torch.long)
    if packed:
        # transformers makes this mask by looking at the positions, which here have no content.
        square = (1, 1, shape.length, shape.length)
        mask = torch.ones(square, dtype=torch.bool) if shape.masked else None
        return {"input_ids": ids, "position_ids": torch.zeros_like(ids), "attention_mask": mask}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids) if shape.masked else None}


def _learning(states: torch.Tensor) -> torch.Tensor:
    """Return the states at all positions that have a next token."""
    return states[:, :-1].reshape(-1, states.shape[-1])


@contextmanager
def _only(model: _Model, chosen: list[int]) -> Iterator[None]:
    """Take all blocks but the chosen ones out of a model for a while."""
    config = model.causal.config.get_text_config()
    listed = decoder_blocks(model.causal, len(model.blocks))
    lists = [name for name in ("layer_types", "no_rope_layers") if getattr(config, name, None)]
    before = {name: getattr(config, name) for name in (*lists, "num_hidden_layers")}
    whole = dict(listed._modules)
    try:
        config.num_hidden_layers = len(chosen)
        for name in lists:
            setattr(config, name, [before[name][number] for number in chosen])
        listed._modules = {str(i): model.blocks[number] for i, number in enumerate(chosen)}
        yield
    finally:
        listed._modules = whole
        for name, value in before.items():
            setattr(config, name, value)


@contextmanager
def _faked(model: _Model, fake: FakeTensorMode) -> Iterator[None]:
    """Make fake tensors on a CPU of a model's weights and buffers for a while, with gradients where they train."""
    made: dict[int, torch.Tensor] = {}
    before: list[tuple[dict[str, Any], dict[str, Any]]] = []
    try:
        for module in model.model.modules():
            for store in (module._parameters, module._buffers):
                before.append((store, dict(store)))
                for name, value in store.items():
                    if value is not None:
                        if id(value) not in made:
                            with fake:
                                made[id(value)] = _like(value)
                        store[name] = made[id(value)]
        yield
    finally:
        for store, whole in before:
            store.update(whole)


def _like(value: torch.Tensor) -> torch.Tensor:
    empty = torch.empty(value.shape, dtype=value.dtype)
    if not isinstance(value, torch.nn.Parameter):
        return empty
    weight = torch.nn.Parameter(empty, requires_grad=value.requires_grad)
    if value.requires_grad:
        weight.grad = torch.zeros_like(weight)
    return weight
