from functools import partial
from pathlib import Path

import pytest

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.tune import rehearsal
from regrow.tune.estimate import Estimate, Setting, check, estimate, largest_micro_batch
from regrow.tune.parameters import load_for_training, trained
from regrow.tune.recipe import BitFit, Distill, Full, HeadAndLastK, Lora, Prefix, Sft
from tests.families import DEPTH_ONLY, FAMILIES
from tests.tiny import tiny_checkpoint

ON_CPU = {"dtype": "float32", "device": "cpu"}
LENGTHS = [40] * 16
KINDS = {
    "lora": Lora(r=4),
    "some blocks": Lora(r=4, blocks=(1, 4)),
    "dora": Lora(kind="dora", r=4, target_modules=("down_proj",)),
    "full": Full(),
    "two blocks": Full(blocks=(0, 5)),
    "head_and_last_k": HeadAndLastK(k=2),
    "bitfit": BitFit(),
    "prefix": Prefix(tokens=4),
}


def setting(parent: Checkpoint, recipe, lengths=LENGTHS, *, micro_batch_size: int, **how) -> Setting:
    return Setting(parent, recipe, lengths, micro_batch_size, **how)


def needs_of(*what, **how) -> Estimate:
    return estimate(setting(*what, **how))


@pytest.fixture(scope="module")
def parents(tmp_path_factory) -> dict[str, Checkpoint]:
    place = tmp_path_factory.mktemp("families")
    return {
        # Without a padding token, whose embedding is a row of zeros: DoRA refuses these.
        family: tiny_checkpoint(place / family, family=family, pad_token_id=None, **FAMILIES[family])
        for family in ("llama", "qwen2", "gemma3_text")
    }


@pytest.fixture(scope="module")
def llama(parents) -> Checkpoint:
    return parents["llama"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
def test_weights_are_counted_as_the_worker_has_them(parents, family: str, kind: str):
    parent, spec = parents[family], KINDS[kind]
    parts = needs_of(parent, Sft(trainable=spec), LENGTHS, micro_batch_size=2, **ON_CPU).parts
    model = load_for_training(parent, spec, "float32", checkpointing=False)
    count = sum(weight.numel() for weight in trained(model).values())
    assert parts["trained"] == parts["gradients"] == 4 * count
    assert parts["optimizer"] == 8 * count
    frozen = sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)
    assert parts.get("weights", 0) == 4 * frozen
    if isinstance(spec, Lora):
        assert parts["weights"] == 4 * parent.parameters


def test_few_blocks_stand_for_all(llama: Checkpoint):
    """The pass over a block of each sort, extrapolated, against the pass over every block."""
    shape = rehearsal.Shape(3, 50, masked=True)
    for recipe in (Sft(), Sft(trainable=HeadAndLastK(k=3)), Sft(gradient_checkpointing=True)):
        student = rehearsal._student(llama, recipe, "bfloat16")
        whole = rehearsal._one_pass(student, list(range(6)), None, [], recipe, "bfloat16", shape)
        seen = rehearsal._extrapolated(student, None, recipe, "bfloat16", shape)
        # The first pass makes masks, on which nothing is kept; only their peak may be counted more than once.
        assert vars(seen) == pytest.approx(vars(whole), rel=0.05)


def test_larger_batches_and_longer_examples_need_more(llama: Checkpoint):
    def needs(size: int, length: int, **recipe) -> int:
        return needs_of(llama, Sft(**recipe), [length] * 16, micro_batch_size=size, **ON_CPU).bytes

    for packing in (False, True):
        sizes = [needs(size, 40, packing=packing) for size in (1, 2, 4, 8)]
        assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    lengths = [needs(2, length) for length in (16, 64, 256, 1000)]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]


def test_the_worst_forward_pass_counts(llama: Checkpoint):
    short = needs_of(llama, Sft(), [30] * 16, micro_batch_size=2, **ON_CPU)
    one_long = needs_of(llama, Sft(), [30] * 15 + [300], micro_batch_size=2, **ON_CPU)
    assert one_long.bytes > short.bytes
    # Padded to the longest, the pass of a long and a short example holds more than the two end to end.
    packed = needs_of(llama, Sft(packing=True), [30] * 15 + [300], micro_batch_size=8, **ON_CPU)
    padded = needs_of(llama, Sft(), [30] * 15 + [300], micro_batch_size=8, **ON_CPU)
    assert packed.parts["activations"] < padded.parts["activations"]


def test_checkpointing_needs_less_and_takes_longer(llama: Checkpoint):
    keeping = needs_of(llama, Sft(), [500] * 16, micro_batch_size=8, **ON_CPU)
    twice = needs_of(llama, Sft(gradient_checkpointing=True), [500] * 16, micro_batch_size=8, **ON_CPU)
    assert twice.parts["activations"] < 0.5 * keeping.parts["activations"]
    assert twice.bytes < keeping.bytes
    assert twice.seconds > keeping.seconds > 0


def test_a_teacher_beside_the_student_counts(llama: Checkpoint):
    alone = needs_of(llama, Sft(), LENGTHS, micro_batch_size=4, **ON_CPU)
    online = needs_of(llama, Distill(), LENGTHS, micro_batch_size=4, teacher=llama, **ON_CPU)
    written = needs_of(llama, Distill(teacher="top_k"), LENGTHS, micro_batch_size=4, teacher=llama, **ON_CPU)
    assert online.parts["teacher"] >= 4 * llama.parameters
    assert online.bytes > written.bytes >= alone.bytes
    assert online.seconds > alone.seconds
    states = Distill(hidden_states=True, embeddings=True)
    assert needs_of(llama, states, LENGTHS, micro_batch_size=4, teacher=llama, **ON_CPU).bytes >= online.bytes


def test_processes_of_a_cpu_share_its_memory(llama: Checkpoint):
    one = needs_of(llama, Sft(), LENGTHS, micro_batch_size=2, **ON_CPU)
    two = needs_of(llama, Sft(), LENGTHS, micro_batch_size=2, processes=2, **ON_CPU)
    assert two.bytes >= 2 * one.bytes


def test_the_largest_micro_batch_is_the_largest_that_fits(llama: Checkpoint):
    recipe = Sft(batch_size=12)
    needs = {
        size: needs_of(llama, recipe, LENGTHS, micro_batch_size=size, **ON_CPU).bytes
        for size in (1, 2, 3, 4, 6, 12)
    }
    largest = partial(largest_micro_batch, setting(llama, recipe, micro_batch_size=1, **ON_CPU), 12)
    for size, count in needs.items():
        assert largest(available=count) == size
    assert largest(available=needs[12] * 2) == 12
    assert largest(available=needs[4] - 1) == 3
    assert largest(available=1) == 1


def refusal(parent: Checkpoint, recipe, available: int, *, size: int = 8, lengths=LENGTHS, **how) -> str:
    run = setting(parent, recipe, lengths, micro_batch_size=size, **(ON_CPU | how))
    with pytest.raises(InputError) as error:
        check(run, estimate(run), size, available)
    return str(error.value)


def test_what_fits_passes(llama: Checkpoint):
    run = setting(llama, Sft(), micro_batch_size=8, **ON_CPU)
    expected = estimate(run)
    check(run, expected, 8, expected.bytes)


def test_a_refusal_names_remedies_that_fit(llama: Checkpoint):
    lengths = [800] * 8
    needs = partial(needs_of, llama, lengths=lengths, **ON_CPU)
    whole, half = (needs(recipe=Sft(), micro_batch_size=size).bytes for size in (8, 4))
    twice = needs(recipe=Sft(gradient_checkpointing=True), micro_batch_size=8).bytes
    text = refusal(llama, Sft(), half, lengths=lengths)
    assert text.startswith(
        f"recipe: needs {whole / 2**30:.1f} GiB, this device has {half / 2**30:.1f} GiB free: use "
    )
    assert "micro_batch_size 4" in text and "\n" not in text
    assert ("gradient_checkpointing" in text) == (twice <= half)
    assert "qlora" not in text and "fsdp" not in text and "top_k" not in text
    text = refusal(llama, Sft(), 2**20, lengths=lengths)
    assert text.endswith("1 MiB free: use a smaller model, shorter max_length or a larger device")


def test_remedies_are_named_only_where_they_apply(llama: Checkpoint):
    def room(recipe, **how) -> int:
        return needs_of(llama, recipe, LENGTHS, micro_batch_size=8, **(ON_CPU | how)).bytes

    on_gpu = {"device": "cuda", "dtype": "bfloat16"}
    with pytest.MonkeyPatch.context() as patch:
        # Only memory is asked for here; how fast a GPU is has no say.
        patch.setattr("regrow.tune.estimate.probed_speed", lambda dtype, device: (1e12, 1e10))
        big = refusal(llama, Sft(trainable=Full()), room(Sft(), **on_gpu), **on_gpu)
        assert "trainable.kind lora" in big and "sharding" not in big
        four_bits = room(Sft(trainable=Lora(kind="qlora")), **on_gpu)
        assert four_bits > 0
        text = refusal(
            llama, Sft(trainable=Full()), room(Sft(trainable=Full()), **on_gpu) - 1, processes=2, **on_gpu
        )
        assert "sharding fsdp" in text
    distill = Distill()
    text = refusal(llama, distill, room(Distill(teacher="top_k")), teacher=llama)
    assert "teacher top_k" in text
    text = refusal(llama, Distill(hidden_states=True), room(Sft()), teacher=llama)
    assert "top_k" not in text


@pytest.mark.parametrize("family", ["gemma2", "phi3", "olmo2", "gpt_neox", "mistral", "qwen2_moe", "gpt_oss"])
def test_every_family_can_be_estimated(family: str, tmp_path: Path):
    parent = tiny_checkpoint(tmp_path / "model", family=family, **(FAMILIES | DEPTH_ONLY)[family])
    plan = needs_of(parent, Sft(), [20, 30, 40, 25], micro_batch_size=4, dtype="bfloat16", device="cpu")
    assert plan.parts["activations"] > 6 * 4 * 40 * 32 * 2 and plan.seconds > 0


def test_an_estimate_is_the_sum_of_its_parts():
    assert Estimate({"weights": 3, "head": 4}, 1.0).bytes == 7


@pytest.mark.real
def test_a_real_run_takes_what_was_estimated(tmp_path: Path):
    import json

    from regrow.tune import tune
    from tests.real_models import smollm2

    parent = smollm2(tmp_path / "smollm2")
    data = tmp_path / "data.jsonl"
    rows = [{"instruction": f"Count to {i}.", "response": "one two three four " * 45} for i in range(4)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = tune(parent, data, Sft(batch_size=4, max_steps=2), tmp_path / "out").summary
    used = summary["peak_bytes"] if summary["device"] == "cpu" else summary["gpu_peak_bytes"]
    assert 0.6 < summary["estimated_bytes"] / used < 1.6, summary
