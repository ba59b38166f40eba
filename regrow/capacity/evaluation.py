"""What evaluation, drift and speed need: whole models on one device, drift and speed two at once."""

from regrow.capacity.assume import Assumptions, reading
from regrow.capacity.device import Device
from regrow.capacity.forward import loaded, texts_of
from regrow.capacity.model import CONTEXT, LIBRARIES, sizes
from regrow.capacity.need import Need, Work
from regrow.capacity.paper import Paper
from regrow.evaluate.spec import EvaluateSpec

# As in the stages themselves: tokens of a packed sequence; three float32 copies of a chunk of logits.
_PACKED, _DRIFT_LOGITS = 512, 3 * 4 * 2**24


def evaluate(one: Paper, name: str, spec: EvaluateSpec, device: Device, assumed: Assumptions) -> Need:
    """Tasks and perplexity of one model."""
    model = sizes(one, device, spec.dtype)
    work: list[Work] = []
    longest, positions, cache = _PACKED, 0, 0
    for task in spec.tasks:
        read = reading(task, assumed)
        length = read.prompt + read.choices
        longest = max(longest, length)
        # Every token of a choice has its logits looked at, and of a packed sequence so many are choices.
        positions = max(positions, round(max(_PACKED, length) * read.choices / length))
        work.append(model.reads(read.questions * length, length, max(_PACKED, length)))
        if read.generated:
            rows = min(spec.batch_size, read.questions)
            longest = max(longest, rows * read.prompt)
            cache = max(cache, rows * (read.prompt + read.generated) * model.cache)
            work.append(model.writes(read.questions, read.generated, read.prompt, rows, compiled=False))
    for text in (spec.perplexity, *spec.more_texts):
        if text is None:
            continue
        tokens = texts_of(text, assumed) * assumed.text * spec.window / (spec.stride or spec.window)
        windows = max(1, min(spec.batch_size, 2048 // spec.window))
        longest = max(longest, windows * spec.window)
        positions = max(positions, windows * spec.window)
        work.append(model.reads(tokens, spec.window, windows * spec.window))
    return Need(
        device=loaded(model, device)
        | {
            "cache": cache,
            "activations": longest * model.working,
            "logits": positions * model.logits,
        },
        host={"libraries": 2 * LIBRARIES, "buffers": 2 * model.tensor},  # lm-eval and its sets besides
        fetched={name: model.stored},
        disk=2 * model.stored,
        work=tuple(work),
        gpus=1,
    )


def drift(
    base: Paper, one: Paper, name: str, spec: EvaluateSpec, device: Device, assumed: Assumptions
) -> Need:
    """Answers of two models, and both over the unpruned one's; the two are in memory together."""
    asked = spec.answers
    assert asked is not None
    models = [sizes(base, device, spec.dtype), sizes(one, device, spec.dtype)]
    count = asked.prompts.limit or assumed.questions
    prompt, answer = assumed.instruction, min(assumed.response, asked.max_new_tokens)
    rows = min(asked.batch_size, count)
    length = prompt + answer
    work = []
    for model in models:
        work.append(model.reads(count * (prompt + length), length, rows * length))
        work.append(model.writes(count, answer, prompt, rows, compiled=False))
    first = models[0]
    return Need(
        device={
            "weights": sum(model.weights for model in models),
            "cache": rows * (prompt + asked.max_new_tokens) * first.cache,
            "activations": rows * length * max(model.working for model in models),
            "logits": _DRIFT_LOGITS,
            **({"context": CONTEXT} if device.kind == "cuda" else {}),
        },
        host={"libraries": LIBRARIES, "buffers": 2 * first.tensor},
        fetched={"base": models[0].stored, name: models[1].stored},
        disk=2 * sum(model.stored for model in models),
        work=tuple(work),
        gpus=1,
        notes=("two models in memory",),
    )


def speed(base: Paper, pruned: Paper, spec: EvaluateSpec, device: Device, assumed: Assumptions) -> Need:
    """Prefill and decoding of two models in turns, and the one as a draft for the other."""
    models = [sizes(base, device, spec.dtype), sizes(pruned, device, spec.dtype)]
    work, widest, held = [], 1, 0
    if asked := spec.speed:
        rounds = asked.rounds + asked.warmup
        for model in models:
            for size in asked.batch_sizes:
                tokens = size * asked.prompt_tokens
                work.append(model.reads(rounds * tokens, asked.prompt_tokens, tokens))
                work.append(
                    model.writes(rounds * size, asked.new_tokens, asked.prompt_tokens, size, compiled=False)
                )
        widest = max(asked.batch_sizes) * asked.prompt_tokens
        held = max(asked.batch_sizes) * (asked.prompt_tokens + asked.new_tokens)
    if (draft := spec.draft) and spec.answers:
        count = min(draft.limit, spec.answers.prompts.limit or assumed.questions)
        turns = (draft.rounds + 1) * (len(draft.tokens) + 1)
        # Of what is drafted nothing is taken to be kept: the draft then writes as much as it can.
        for model, times in zip(models, (1, max(draft.tokens)), strict=True):
            work.append(
                model.writes(turns * count, times * draft.new_tokens, assumed.instruction, 1, compiled=False)
            )
    processes = 2 if device.kind == "cuda" else 0
    return Need(
        device={
            "weights": sum(model.weights for model in models),
            "cache": held * sum(model.cache for model in models),
            "activations": widest * sum(model.working for model in models),
            "context": processes * CONTEXT,
        },
        host={"libraries": 3 * LIBRARIES, "buffers": 4 * models[0].tensor},
        fetched={"base": models[0].stored, "pruned": models[1].stored},
        disk=2 * sum(model.stored for model in models),
        work=tuple(work),
        gpus=1,
        notes=("two models in memory",),
    )
