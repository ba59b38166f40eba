import math

import pytest
import torch

from regrow.errors import InputError
from regrow.importance import ImportanceSpec, LayerImportance, compute
from tests.tiny import tiny_checkpoint

TEXTS = [
    "A short text.",
    "Somewhat longer than the first text, to force padding.",
    "Grass grows back after the cut.",
]


def obvious(checkpoint, texts):
    """One text at a time, no padding, float64: the states from the layers' own calls."""
    model, tokenizer = checkpoint.load(dtype="float32"), checkpoint.tokenizer()
    depth = checkpoint.blocks
    distance = torch.zeros(depth + 1, depth + 1, dtype=torch.float64)
    cosine, tokens = torch.zeros(depth, dtype=torch.float64), 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            states = list(model(ids, output_hidden_states=True).hidden_states[:-1])
            raw = []
            hook = model.model.layers[-1].register_forward_hook(lambda m, a, o, raw=raw: raw.append(o))
            model(ids)
            hook.remove()
        states.append(raw[0][0] if isinstance(raw[0], tuple) else raw[0])
        states = [s.double()[0] for s in states]
        for i in range(depth + 1):
            for j in range(depth + 1):
                a, b = states[i][-1], states[j][-1]
                distance[i, j] += math.acos(min(1.0, float(a @ b / (a.norm() * b.norm())))) / math.pi
        for block in range(depth):
            a, b = states[block], states[block + 1]
            cosine[block] += ((a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))).sum()
        tokens += ids.shape[1]
    return distance / len(texts), 1 - cosine / tokens


def test_equals_the_obvious_computation_with_padding_in_the_batch(tiny):
    result = compute(tiny, TEXTS, ImportanceSpec(batch_size=3))
    distance, influence = obvious(tiny, TEXTS)
    for size in range(1, tiny.blocks + 1):
        for start in range(tiny.blocks):
            value = result.angular_distance[size - 1][start]
            if start + size > tiny.blocks:
                assert value is None
            else:
                assert value == pytest.approx(float(distance[start, start + size]), abs=2e-4)
    assert result.block_influence == pytest.approx(influence.tolist(), abs=1e-5)
    assert result.tokens == sum(len(text.encode()) for text in TEXTS)


def test_batch_size_does_not_change_the_numbers(tiny):
    one = compute(tiny, TEXTS, ImportanceSpec(batch_size=1))
    three = compute(tiny, TEXTS, ImportanceSpec(batch_size=3))
    assert one.block_influence == pytest.approx(three.block_influence, abs=1e-5)


def test_finds_the_block_that_does_nothing(tmp_path):
    from safetensors.torch import load_file, save_file

    from regrow.checkpoint import Checkpoint

    tiny = tiny_checkpoint(tmp_path / "m", initializer_range=0.5)
    file = tiny.folder / "model.safetensors"
    weights = load_file(file)
    for name in weights:
        if name.startswith("model.layers.3.") and ("o_proj" in name or "down_proj" in name):
            weights[name].zero_()
    save_file(weights, file, metadata={"format": "pt"})
    result = compute(Checkpoint.open(tiny.folder), TEXTS, ImportanceSpec())
    assert result.best(1)[0] == 3
    assert result.best(1)[1] == pytest.approx(0, abs=1e-3)
    assert result.block_influence[3] == pytest.approx(0, abs=1e-5)


def test_round_trips_through_its_file(tiny, tmp_path):
    result = compute(tiny, TEXTS, ImportanceSpec())
    result.save(tmp_path / "importance.json")
    assert LayerImportance.read(tmp_path / "importance.json") == result


@pytest.mark.parametrize("size", [0, 6, 7])
def test_a_size_outside_the_model_is_refused(tiny, size):
    with pytest.raises(InputError, match="choose 1 to 5"):
        compute(tiny, TEXTS, ImportanceSpec()).best(size)


def test_no_texts_is_refused(tiny):
    with pytest.raises(InputError, match="calibration set is empty"):
        compute(tiny, [], ImportanceSpec())
