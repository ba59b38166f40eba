"""What the stages that run the unpruned model need: importance, self-data, shift.

Each of them but importance and vLLM loads a whole model on one device, whatever there are. Where a model is larger
than that, the figures say how many devices its bytes would fill, and the notes that the stage cannot use them.
"""

from dataclasses import dataclass
from typing import Any

from regrow.capacity.assume import Assumptions
from regrow.capacity.device import Device
from regrow.capacity.model import CONTEXT, LIBRARIES, Sizes, sizes
from regrow.capacity.need import Need, Work
from regrow.capacity.paper import Paper
from regrow.importance import ImportanceSpec
from regrow.selfdata import SelfDataSpec, ShiftSpec
from regrow.source import DatasetSpec, TextSpec

# As in the stages themselves: shares of the free memory that a model may take (importance), that a batch may take
# (transformers engine), rows of a batch, tokens of prompts read at one time.
_WHOLE, _ROOM, _ROWS = 0.7, {"cuda": 0.8, "cpu": 0.5}, {"cuda": 512, "cpu": 64}
_READ = 4096
# Bytes of a token in the JSON lines of a set, with keys and quotes; an assumption.
_TEXT = 6


@dataclass(frozen=True)
class Data:
    """A dataset as the stages see it."""

    records: int
    instruction: int
    reference: int
    response: int
    template: int

    @property
    def nbytes(self) -> int:
        """Bytes of the rewritten set."""
        return self.records * (self.instruction + self.reference + self.response) * _TEXT

    @property
    def conversation(self) -> int:
        """Tokens of an instruction with an answer, in the chat template."""
        return self.instruction + self.response + self.template // 2


def data_of(dataset: DatasetSpec, spec: SelfDataSpec, assumed: Assumptions) -> Data:
    """Return a dataset's sizes."""
    return Data(
        records=dataset.limit or assumed.records,
        instruction=assumed.instruction,
        reference=assumed.reference,
        response=min(assumed.response, spec.max_new_tokens),
        template=assumed.template,
    )


def texts_of(spec: TextSpec, assumed: Assumptions) -> int:
    """Return how many texts are read."""
    return spec.limit or assumed.texts


def importance(
    base: Paper, texts: TextSpec, spec: ImportanceSpec, device: Device, assumed: Assumptions
) -> Need:
    """One forward pass over the calibration texts, without the output head; searches are passes of their own."""
    model = sizes(base, device, spec.dtype)
    count, length = texts_of(texts, assumed), min(spec.max_tokens, assumed.text)
    tokens, batch = count * length, min(spec.batch_size, count) * length
    whole = spec.search is not None or (
        spec.placement != "blocks"
        and (spec.placement == "whole" or model.weights <= _WHOLE * (device.memory - CONTEXT))
    )
    depth = base.blocks
    states = tokens * model.state
    on_device = {"activations": batch * model.working}
    host = {"libraries": LIBRARIES, "buffers": 2 * model.tensor}
    scratch = 0
    if whole:
        on_device["weights"] = model.weights
        if spec.all_tokens:
            on_device["states"] = (depth + 1) * batch * model.state
    else:
        # One block, or the embeddings, at a time. States before a block and after it wait for the block to be done.
        on_device["weights"] = max(model.block, model.outside)
        waiting = (depth + 1 if spec.all_tokens else 2) * states + (depth + 1) * count * model.state
        if spec.states == "disk":
            scratch = waiting
            host["states"] = 2 * batch * model.state
        else:
            host["states"] = waiting
    if device.kind == "cuda":
        on_device["context"] = CONTEXT
    passes = 1.0 + _trials(spec, depth)
    work = Work(
        "forward", passes * tokens * model.backbone(length / 2), passes * tokens / batch * model.weights
    )
    return Need(
        device=on_device,
        host=host,
        fetched={"base": model.stored},
        scratch=scratch,
        disk=2 * model.stored + (2 * depth * states if scratch else 0),
        work=(work,),
        gpus=1,
        notes=() if whole else ("one block at a time",),
    )


def _trials(spec: ImportanceSpec, depth: int) -> float:
    """Passes of a search, in whole ones: a trial runs only the blocks behind the first that is left out."""
    if spec.search is None:
        return 0.0
    found = 0.0
    runs = sum(
        sum((depth - start - size) / depth for start in range(depth - size + 1)) for size in spec.search.sizes
    )
    if "perplexity" in spec.search.criteria:
        found += runs
    if "task" in spec.search.criteria:
        found += sum(depth - size + 1 for size in spec.search.sizes)
    if "greedy" in spec.search.criteria:
        found += sum((depth - done) / 2 for done in range(max(spec.search.sizes)))
    return found


def self_data(base: Paper, data: Data, spec: SelfDataSpec, device: Device, assumed: Assumptions) -> Need:
    """Every record's answer, rewritten by the unpruned model."""
    model = sizes(base, device, spec.vllm.dtype if spec.engine == "vllm" else "auto")
    prompt = data.instruction + data.template + (data.reference if spec.use_reference else 0)
    longest = prompt + spec.max_new_tokens
    answers = data.records * spec.attempts
    stored = data.nbytes
    common: dict[str, Any] = {
        "host": {"libraries": LIBRARIES, "data": 4 * stored},
        "stored": stored,
        "scratch": 2 * stored,
    }
    if spec.engine == "endpoint":
        return Need(
            fetched={"base": model.stored},
            notes=("the endpoint's server generates; it is not planned",),
            **common,
        )
    compiled = spec.engine == "vllm"
    gpus = spec.vllm.tensor_parallel_size if compiled else 1
    free = device.memory * gpus * (spec.vllm.gpu_memory_utilization if compiled else 1.0)
    free = max(0.0, free - model.weights - CONTEXT * gpus)
    if compiled:
        row, most = (prompt + data.response) * model.cache, spec.vllm.max_num_seqs
    else:
        row = 16 * model.vocabulary + longest * (model.cache + model.working)
        free *= _ROOM[device.kind]
        most = spec.batch_size or _ROWS[device.kind]
    rows = max(1, min(most, answers, int(free // row)))
    on_device = {
        "weights": model.weights,
        "cache": rows * longest * model.cache,
        "activations": min(_READ, rows * prompt) * model.working,
        "logits": rows * 16 * model.vocabulary,
    }
    if compiled:
        # vLLM takes its whole share at the start; what it must have is a single sequence's.
        on_device["cache"] = max(longest * model.cache, int(min(free, rows * longest * model.cache)))
    if device.kind == "cuda":
        on_device["context"] = CONTEXT * gpus
    return Need(
        device=on_device,
        fetched={"base": model.stored},
        disk=2 * model.stored,
        work=(
            model.reads(answers * prompt, prompt, _READ),
            model.writes(answers, data.response, prompt, rows * assumed.occupancy, compiled=compiled),
        ),
        gpus=gpus,
        spreads="self_data.vllm.tensor_parallel_size" if compiled else "",
        notes=(f"{rows} sequences at one time",),
        **common,
    )


def shift(base: Paper, data: Data, spec: ShiftSpec, device: Device) -> Need:
    """Likelihood of rewrites and references; the logits of a whole batch are made."""
    model = sizes(base, device)
    count = min(spec.limit, data.records)
    length = min(spec.max_tokens, data.instruction + max(data.response, data.reference) + data.template // 2)
    batch = min(spec.batch_size, 2 * count) * length
    return Need(
        device=loaded(model, device)
        | {
            "activations": batch * model.working,
            "logits": batch * model.item * model.vocabulary + length * 8 * model.vocabulary,
        },
        host={"libraries": LIBRARIES, "buffers": 2 * model.tensor},
        fetched={"base": model.stored, "data": data.nbytes},
        disk=2 * model.stored,
        work=(model.reads(2 * count * length, length, batch),),
        gpus=1,
    )


def loaded(model: Sizes, device: Device) -> dict[str, int]:
    """Return what a whole model on a device takes before it computes."""
    return {"weights": model.weights} | ({"context": CONTEXT} if device.kind == "cuda" else {})
