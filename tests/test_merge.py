import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regrow import tensors
from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.merge import MergeSpec, merge, merge_many, slerp
from tests.tiny import tiny_checkpoint


@pytest.fixture
def pair(tmp_path: Path):
    return tiny_checkpoint(tmp_path / "a", seed=1), tiny_checkpoint(tmp_path / "b", seed=2)


def siblings(folder: Path, count: int, noise: float = 1e-4) -> list[Checkpoint]:
    """Models a small step away from one parent, as tuned siblings are."""
    from transformers import AutoModelForCausalLM

    parent = tiny_checkpoint(folder / "parent")
    result = []
    for seed in range(count):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(parent.folder)
        for weight in model.parameters():
            weight.data += noise * torch.randn_like(weight)
        out = parent.copy_to(folder / f"sibling-{seed}").folder
        (out / "model.safetensors").unlink()
        model.save_pretrained(out)
        result.append(Checkpoint.open(out))
    return result


def values(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: tensors.load(info, name) for name, info in checkpoint.tensors().items()}


def by_the_formula(a: torch.Tensor, b: torch.Tensor, t: float) -> torch.Tensor:
    x, y = a.double().flatten(), b.double().flatten()
    w = math.acos(float(x @ y / (x.norm() * y.norm())))
    return ((math.sin((1 - t) * w) * x + math.sin(t * w) * y) / math.sin(w)).reshape(a.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ends_are_the_models_byte_for_byte(tmp_path: Path, dtype):
    a = tiny_checkpoint(tmp_path / "a", seed=1, dtype=dtype)
    b = tiny_checkpoint(tmp_path / "b", seed=2, dtype=dtype)
    for t, end in ((0.0, a), (1.0, b)):
        merged = merge(a, b, MergeSpec(t=t), tmp_path / f"t{t}").checkpoint
        for name, info in merged.tensors().items():
            source = end.tensors()[name]
            assert info.dtype == source.dtype
            assert _bytes(info) == _bytes(source), name


def _bytes(info) -> bytes:
    return info.file.read_bytes()[info.start : info.end]


def test_between_the_ends_is_the_formula_and_loads(tmp_path: Path, pair):
    a, b = pair
    result = merge(a, b, MergeSpec(t=0.3), tmp_path / "m")
    left, right = values(a), values(b)
    seen_arc = 0
    for name, got in values(result.checkpoint).items():
        x, y = left[name], right[name]
        if torch.equal(x, y):  # norms of a fresh model: all ones
            torch.testing.assert_close(got, x)
        else:
            torch.testing.assert_close(got.double(), by_the_formula(x, y, 0.3), rtol=1e-5, atol=1e-7)
            seen_arc += 1
    assert seen_arc > 40
    assert result.tensors == len(left) and 0 < result.linear < result.tensors
    assert 1.5 < result.mean_angle < 1.65 or result.linear_share < 0.1  # random models are orthogonal
    model = result.checkpoint.load()
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert result.checkpoint.chat_tokenizer().chat_template


def test_the_middle_does_not_depend_on_the_order(tmp_path: Path, pair):
    a, b = pair
    one = merge(a, b, MergeSpec(), tmp_path / "ab").checkpoint
    two = merge(b, a, MergeSpec(), tmp_path / "ba").checkpoint
    for name, tensor in values(one).items():
        assert torch.equal(tensor, values(two)[name]), name


def test_same_merge_same_digest(tmp_path: Path, pair):
    a, b = pair
    assert (
        merge(a, b, MergeSpec(), tmp_path / "1").checkpoint.digest
        == merge(a, b, MergeSpec(), tmp_path / "2").checkpoint.digest
    )


@given(t=st.floats(0, 1), scale=st.floats(0.01, 100), seed=st.integers(0, 1000))
def test_orthogonal_vectors(t, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(24, 2, generator=generator, dtype=torch.float64))
    x, y = basis[:, 0].float().reshape(4, 6), (scale * basis[:, 1]).float().reshape(4, 6)
    got, angle, linear = slerp(x, y, t)
    assert angle == pytest.approx(math.pi / 2, abs=1e-5) and not linear
    # Un-normalised vectors are combined: each keeps its own length.
    want = math.cos(t * math.pi / 2) * x.double() + math.sin(t * math.pi / 2) * y.double()
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5 * max(1, scale))


def test_parallel_opposite_and_zero_tensors_go_on_the_line():
    x = torch.tensor([[1.0, 2.0], [3.0, -4.0]])
    for y in (2 * x, x, -3 * x, torch.zeros_like(x)):
        got, _, linear = slerp(x, y, 0.25)
        assert linear
        torch.testing.assert_close(got, 0.75 * x + 0.25 * y)
    assert torch.equal(slerp(torch.zeros(3), torch.zeros(3), 0.5)[0], torch.zeros(3))


def test_threshold_is_on_the_cosine():
    x = torch.tensor([1.0, 0.0])
    for cosine, linear in ((0.99949, False), (0.99951, True), (-0.99951, True), (-0.99949, False)):
        y = torch.tensor([cosine, math.sqrt(1 - cosine**2)])
        assert slerp(x, y, 0.5)[2] is linear


def test_angle_of_close_tensors_is_exact():
    x = torch.zeros(1000)
    x[0] = 1
    y = x.clone()
    y[1] = 1e-4  # arccos of a float32 cosine would say 0
    assert slerp(x, y, 0.5)[1] == pytest.approx(1e-4, rel=1e-3)


def test_computes_in_float32_and_rounds_once():
    torch.manual_seed(0)
    x, y = torch.randn(64, 64).bfloat16(), torch.randn(64, 64).bfloat16()
    got, _, _ = slerp(x, y, 0.4)
    assert got.dtype == torch.bfloat16
    want = by_the_formula(x, y, 0.4)
    assert (got.double() - want).abs().max() <= 2**-8 * want.abs().max()
    assert torch.mean((got != want.bfloat16()).float()) < 0.001


def test_sharded_input_and_output(tmp_path: Path, pair):
    a, b = pair
    whole = merge(a, b, MergeSpec(t=0.6), tmp_path / "whole").checkpoint
    model = a.load()
    sharded = a.copy_to(tmp_path / "a-sharded").folder
    (sharded / "model.safetensors").unlink()
    model.save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 3
    result = merge(
        Checkpoint.open(sharded), b, MergeSpec(t=0.6), tmp_path / "m", max_shard_bytes=30_000
    ).checkpoint
    assert len(list(result.folder.glob("*.safetensors"))) > 2
    for name, tensor in values(result).items():
        assert torch.equal(tensor, values(whole)[name]), name
    result.load()


def test_holds_two_tensors_at_a_time(tmp_path: Path, pair, monkeypatch):
    import weakref

    a, b = pair
    living: list[weakref.ref] = []
    most = 0
    real = tensors.load

    def load(info, name):
        nonlocal most
        tensor = real(info, name)
        living.append(weakref.ref(tensor))
        most = max(most, sum(ref() is not None for ref in living))
        return tensor

    monkeypatch.setattr(tensors, "load", load)
    merge(a, b, MergeSpec(), tmp_path / "m")
    assert len(living) == 2 * len(a.tensors())
    assert most <= 2


def _edit(folder: Path, **changes) -> Checkpoint:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return Checkpoint.open(folder)


def test_strangers_are_refused(tmp_path: Path, pair):
    a, b = pair
    spec, out = MergeSpec(), tmp_path / "m"

    deeper = tiny_checkpoint(tmp_path / "deep", num_hidden_layers=7)
    with pytest.raises(InputError, match=r"tensor model\.layers\.6\..* is only in one"):
        merge(a, deeper, spec, out)
    wider = tiny_checkpoint(tmp_path / "wide", intermediate_size=96)
    with pytest.raises(InputError, match=r"shape of model\.layers\.0\.mlp"):
        merge(a, wider, spec, out)
    half = tiny_checkpoint(tmp_path / "half", dtype=torch.bfloat16)
    with pytest.raises(InputError, match=r"dtype of .* is BF16, not F32"):
        merge(a, half, spec, out)

    copy = b.copy_to(tmp_path / "c").folder
    with pytest.raises(InputError, match=r"config\.json differs in rms_norm_eps"):
        merge(a, _edit(copy, rms_norm_eps=0.5), spec, out)

    copy = b.copy_to(tmp_path / "d").folder
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + " ")
    with pytest.raises(InputError, match=r"tokenizer\.json differs"):
        merge(a, Checkpoint.open(copy), spec, out)

    copy = b.copy_to(tmp_path / "e").folder
    (copy / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(InputError, match=r"chat_template\.jinja differs"):
        merge(a, Checkpoint.open(copy), spec, out)
    assert not out.exists() and not list(tmp_path.glob(".m.*"))


def test_existing_folder_is_kept(tmp_path: Path, pair):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").touch()
    with pytest.raises(InputError, match="already exists"):
        merge(*pair, MergeSpec(), tmp_path / "m")
    assert (tmp_path / "m" / "mine").exists()


def test_small_files_are_those_of_the_first_and_the_card_names_both(tmp_path: Path, pair):
    a, b = pair
    (a.folder / "LICENSE").write_text("a's licence")
    (a.folder / "README.md").write_text("a's own card")
    a = Checkpoint.open(a.folder)
    result = merge(a, b, MergeSpec(t=0.25), tmp_path / "m")
    assert (tmp_path / "m" / "LICENSE").read_text() == "a's licence"
    card = (tmp_path / "m" / "README.md").read_text()
    assert a.digest in card and b.digest in card and "0.25" in card and "own card" not in card
    assert result.models == [a.digest, b.digest]
    assert json.dumps(result.summary())


def test_many_models_weigh_the_same(tmp_path: Path):
    models = siblings(tmp_path, 3)
    result = merge_many(models, MergeSpec(), tmp_path / "m")
    assert result.models == [model.digest for model in models]
    each = [values(model) for model in models]
    for name, got in values(result.checkpoint).items():
        # Siblings this close lie on a line, where equal weights are the mean.
        torch.testing.assert_close(got, sum(v[name] for v in each) / 3, rtol=1e-5, atol=1e-6)
    assert result.linear_share > 0.9
    card = (tmp_path / "m" / "README.md").read_text()
    assert all(model.digest in card for model in models)
    assert not list(tmp_path.glob(".m*"))


def test_many_of_one_two_and_none(tmp_path: Path, pair):
    a, b = pair
    assert merge_many([a], MergeSpec(), tmp_path / "one").models == [a.digest]
    two = merge_many([a, b], MergeSpec(t=0.2), tmp_path / "two").checkpoint
    assert two.digest == merge(a, b, MergeSpec(t=0.2), tmp_path / "pair").checkpoint.digest
    with pytest.raises(InputError, match="no models"):
        merge_many([], MergeSpec(), tmp_path / "none")
    with pytest.raises(InputError, match=r"merge\.t"):
        merge_many([a, b, a], MergeSpec(t=0.2), tmp_path / "three")
