"""The pass against a slow, obvious computation, for whole models and for models that pass block by block."""

import math

import pytest
import torch

from regrow.anatomy import anatomy_of, decoder_blocks, widths_of
from regrow.errors import InputError
from regrow.importance import ImportanceSpec, LayerImportance, compute
from regrow.importance.calibration import Batch
from regrow.importance.measure import _observed
from regrow.importance.tally import Tally
from tests.families import FAMILIES, SPREAD
from tests.tiny import scale_weight, tiny_checkpoint

TEXTS = [
    "A short text.",
    "Somewhat longer than the first text, to force padding.",
    "Grass grows back after the cut.",
]


def angle(a, b) -> float:
    return math.acos(max(-1.0, min(1.0, float(a @ b / (a.norm() * b.norm()))))) / math.pi


def obvious(checkpoint, texts, skip_first=0):
    """One text at a time, no padding, everything in float64, numbers from their definitions."""
    model, tokenizer = checkpoint.load(dtype="float64"), checkpoint.tokenizer()
    anatomy, widths = anatomy_of(checkpoint.config), widths_of(checkpoint.config, "config.json")
    depth = checkpoint.blocks
    blocks = decoder_blocks(model, depth)
    last, every = torch.zeros(depth + 1, depth + 1).double(), torch.zeros(depth + 1, depth + 1).double()
    cosine, tokens = torch.zeros(depth).double(), 0
    squares: dict[str, list] = {}
    for text in texts:
        seen: dict[tuple[str, int], torch.Tensor] = {}

        def keep(kind, number, seen=seen):
            return lambda _module, args: seen.__setitem__((kind, number), args[0][0])

        hooks, ends = [], []
        for number, block in enumerate(blocks):
            hooks.append(block.register_forward_pre_hook(keep("state", number)))
            for kind in ("attention_in", "attention_out", "mlp_in", "mlp_out"):
                module = block.get_submodule(getattr(anatomy, kind))
                hooks.append(module.register_forward_pre_hook(keep(kind, number)))
        hooks.append(blocks[-1].register_forward_hook(lambda _m, _a, out, ends=ends: ends.append(out[0])))
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            model(ids)
        for hook in hooks:
            hook.remove()
        states = [seen["state", number] for number in range(depth)] + ends
        count = ids.shape[1]
        for i in range(depth + 1):
            for j in range(depth + 1):
                last[i, j] += angle(states[i][-1], states[j][-1])
                for t in range(skip_first, count):
                    every[i, j] += angle(states[i][t], states[j][t])
        for block in range(depth):
            a, b = states[block][skip_first:], states[block + 1][skip_first:]
            cosine[block] += ((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).sum()
            groups = seen["attention_out", block][skip_first:].unflatten(-1, (widths.groups, -1))
            for name, value in (
                ("neurons", seen["mlp_out", block][skip_first:].abs().mean(0)),
                ("groups", groups.norm(dim=-1).mean(0)),
                ("attention", seen["attention_in", block][skip_first:].abs().mean(0)),
                ("mlp", seen["mlp_in", block][skip_first:].abs().mean(0)),
            ):
                squares.setdefault(name, [0] * depth)[block] += value**2
        tokens += count - skip_first
    units = {name: torch.stack(rows).sqrt() for name, rows in squares.items()}
    return last / len(texts), every / tokens, 1 - cosine / tokens, units


@pytest.mark.parametrize("skip_first", [0, 1])
@pytest.mark.parametrize("placement", ["whole", "blocks"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_neox", "olmo2", "phi3"])
def test_equals_the_obvious_computation(tmp_path, family, placement, skip_first):
    base = tiny_checkpoint(tmp_path / "base", family=family, **SPREAD, **FAMILIES[family])
    spec = ImportanceSpec(batch_size=3, all_tokens=True, skip_first=skip_first, placement=placement)
    result = compute(base, TEXTS, spec)
    last, every, influence, units = obvious(base, TEXTS, skip_first)
    for size in range(1, 7):
        for start in range(6):
            for matrix, expected in (
                (result.angular_distance, last),
                (result.angular_distance_all_tokens, every),
            ):
                value = matrix[size - 1][start]
                if start + size > 6:
                    assert value is None
                else:
                    assert value == pytest.approx(float(expected[start, start + size]), abs=1e-5)
    assert result.block_influence == pytest.approx(influence.tolist(), abs=1e-5)
    width = result.width
    for found, expected in (
        (width.neurons, units["neurons"]),
        (width.groups, units["groups"]),
        (width.channels_by_block, units["attention"] + units["mlp"]),
    ):
        torch.testing.assert_close(torch.tensor(found).double(), expected, atol=1e-4, rtol=1e-4)
    assert result.tokens == sum(len(text.encode()) for text in TEXTS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("states", ["memory", "disk"])
@pytest.mark.parametrize("all_tokens", [False, True])
def test_one_block_at_a_time_gives_the_same_numbers(tmp_path, family, states, all_tokens):
    base = tiny_checkpoint(tmp_path / "base", family=family, **SPREAD, **FAMILIES[family])
    shared = {"batch_size": 2, "all_tokens": all_tokens}
    whole = compute(base, TEXTS, ImportanceSpec(placement="whole", **shared))
    blocks = compute(base, TEXTS, ImportanceSpec(placement="blocks", states=states, **shared))
    assert blocks == whole


def test_the_final_norm_is_not_in_the_states(tmp_path):
    """transformers' last hidden state is after the norm; the distance to it would be another one."""
    base = tiny_checkpoint(tmp_path / "base", **SPREAD)
    weights_scaled = base.load(dtype="float32")
    weights_scaled.model.norm.weight.data *= torch.linspace(-5, 5, 32)
    weights_scaled.save_pretrained(tmp_path / "scaled")
    base.tokenizer().save_pretrained(tmp_path / "scaled")
    from regrow.checkpoint import Checkpoint

    other = compute(Checkpoint.open(tmp_path / "scaled"), TEXTS, ImportanceSpec())
    assert other.angular_distance == compute(base, TEXTS, ImportanceSpec()).angular_distance


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_padding_on_either_side_gives_the_same_numbers(tmp_path, family):
    base = tiny_checkpoint(tmp_path / "base", family=family, **SPREAD, **FAMILIES[family])
    model, tokenizer = base.load(dtype="float32"), base.tokenizer()
    anatomy, widths = anatomy_of(base.config), widths_of(base.config, "config.json")
    rows = [tokenizer(text).input_ids for text in TEXTS]
    longest = max(map(len, rows))
    found = []
    for left in (False, True):
        padded = [[0] * (longest - len(r)) + r if left else r + [0] * (longest - len(r)) for r in rows]
        masks = [
            [0] * (longest - len(r)) + [1] * len(r) if left else [1] * len(r) + [0] * (longest - len(r))
            for r in rows
        ]
        batch = Batch(torch.tensor(padded), torch.tensor(masks))
        tally = Tally(6, widths, all_tokens=True, skip_first=1)
        with torch.inference_mode(), _observed(decoder_blocks(model, 6), anatomy, tally, batch):
            model.base_model(
                input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
            )
        tally.text(batch)
        found.append(tally)
    right, left = found
    assert right.tokens == left.tokens == sum(map(len, rows))
    for all_tokens in (False, True):
        for one, other in zip(
            right.matrix(all_tokens=all_tokens), left.matrix(all_tokens=all_tokens), strict=True
        ):
            assert one == pytest.approx(other, abs=1e-5)
    assert right.influence() == pytest.approx(left.influence(), abs=1e-5)
    torch.testing.assert_close(
        torch.tensor(right.width().neurons), torch.tensor(left.width().neurons), atol=1e-4, rtol=1e-4
    )


def test_batch_size_does_not_change_the_numbers(tiny):
    one = compute(tiny, TEXTS, ImportanceSpec(batch_size=1))
    three = compute(tiny, TEXTS, ImportanceSpec(batch_size=3))
    assert one.block_influence == pytest.approx(three.block_influence, abs=1e-5)
    assert one.width.groups[0] == pytest.approx(three.width.groups[0], rel=1e-4)


def test_finds_the_block_that_does_nothing(tmp_path):
    tiny = tiny_checkpoint(tmp_path / "m", initializer_range=0.5)
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        tiny = scale_weight(tiny, f"model.layers.3.{name}.weight", 0)
    result = compute(tiny, TEXTS, ImportanceSpec())
    assert result.best(1)[0] == 3
    assert result.best(1)[1] == pytest.approx(0, abs=1e-6)
    assert result.block_influence[3] == pytest.approx(0, abs=1e-6)


def test_round_trips_through_its_file(tiny, tmp_path):
    result = compute(tiny, TEXTS, ImportanceSpec(all_tokens=True))
    result.save(tmp_path / "importance.json")
    assert LayerImportance.read(tmp_path / "importance.json") == result
    assert (tmp_path / "importance.json").read_text().count("\n") < 100, "a row a line, for people"


@pytest.mark.parametrize("placement", ["whole", "blocks"])
def test_an_interrupted_measurement_continues(tiny, tmp_path, monkeypatch, placement):
    from regrow.importance.progress import Progress

    monkeypatch.setattr(Progress, "SECONDS", 0.0)
    spec = ImportanceSpec(batch_size=1, placement=placement, states="disk")
    expected = compute(tiny, TEXTS, spec)
    calls = []
    real = Tally.block

    def dies(self, block, *rest):
        calls.append(block)
        if len(calls) == (14 if placement == "whole" else 10):
            raise KeyboardInterrupt
        real(self, block, *rest)

    monkeypatch.setattr(Tally, "block", dies)
    with pytest.raises(KeyboardInterrupt):
        compute(tiny, TEXTS, spec, tmp_path / "work")
    seen = len(calls)
    monkeypatch.setattr(Tally, "block", lambda self, *rest: (calls.append(rest[0]), real(self, *rest))[1])
    assert compute(tiny, TEXTS, spec, tmp_path / "work") == expected
    # 3 texts through 6 blocks: what was finished before (2 texts; 3 blocks) is not done again.
    assert len(calls) - seen == (6 if placement == "whole" else 9)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("level", [0, 2, 5])
def test_a_kill_between_two_blocks_is_no_different(tiny, tmp_path, monkeypatch, level):
    from regrow.importance import blocks

    spec = ImportanceSpec(batch_size=1, placement="blocks", states="disk")
    expected = compute(tiny, TEXTS, spec)
    real = blocks._Disk.keep_last_tokens

    def dies(self, now, loaded):
        if now == level:
            raise KeyboardInterrupt
        real(self, now, loaded)

    monkeypatch.setattr(blocks._Disk, "keep_last_tokens", dies)
    with pytest.raises(KeyboardInterrupt):
        compute(tiny, TEXTS, spec, tmp_path / "work")
    monkeypatch.setattr(blocks._Disk, "keep_last_tokens", real)
    assert compute(tiny, TEXTS, spec, tmp_path / "work") == expected


def test_what_was_kept_for_other_settings_is_not_taken(tiny, tmp_path, monkeypatch):
    from regrow.importance.progress import Progress

    monkeypatch.setattr(Progress, "SECONDS", 0.0)
    kept = Progress(tmp_path / "work", "another key")
    tally = Tally(6, None, all_tokens=False, skip_first=0)
    kept.save(tally, 2)
    assert compute(tiny, TEXTS, ImportanceSpec(), tmp_path / "work") == compute(tiny, TEXTS, ImportanceSpec())


def test_a_model_that_does_not_fit_goes_block_by_block(tiny, monkeypatch, caplog):
    from regrow import device

    monkeypatch.setattr(device, "free_memory", lambda: 1000)
    monkeypatch.setattr("regrow.checkpoint.Checkpoint.load", lambda *a, **k: pytest.fail("loaded whole"))
    compute(tiny, TEXTS, ImportanceSpec())
    assert "one block at a time" in caplog.text


@pytest.mark.parametrize("size", [0, 6, 7])
def test_a_size_outside_the_model_is_refused(tiny, size):
    with pytest.raises(InputError, match="choose 1 to 5"):
        compute(tiny, TEXTS, ImportanceSpec()).best(size)


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        ([], {}, "calibration set is empty"),
        (["a", "b"], {}, "no calibration text has 2 tokens"),
        (["abc"], {"skip_first": 3}, "no calibration text has 4 tokens"),
    ],
)
def test_texts_that_say_nothing_are_refused(tiny, texts, settings, message):
    with pytest.raises(InputError, match=message):
        compute(tiny, texts, ImportanceSpec(**settings))


def test_states_that_are_no_numbers_are_refused(tmp_path):
    base = scale_weight(tiny_checkpoint(tmp_path / "base"), "model.embed_tokens.weight", 1e8)
    with pytest.raises(InputError, match="choose float32"):
        compute(base, TEXTS, ImportanceSpec(dtype="float16"))
