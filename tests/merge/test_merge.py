import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.merge import MergeSpec, merge
from tests.merge.models import apart, arrays, data, family, larger, noisy, values
from tests.tiny import tiny_checkpoint

NEED_BASE = {
    "task_arithmetic": {},
    "ties": {"density": 0.3},
    "dare_linear": {"density": 0.5, "seed": 4},
    "dare_ties": {"density": 0.5, "seed": 4},
    "nuslerp": {"t": 0.3},
}


@pytest.fixture
def pair(tmp_path: Path):
    return tiny_checkpoint(tmp_path / "a", seed=1), tiny_checkpoint(tmp_path / "b", seed=2)


def resharded(model: Checkpoint, folder: Path) -> Checkpoint:
    out = model.copy_to(folder).folder
    (out / "model.safetensors").unlink()
    model.load(dtype=str(model.stored_dtype()).removeprefix("torch.")).save_pretrained(
        out, max_shard_size="20KB"
    )
    assert len(list(out.glob("*.safetensors"))) > 3
    return Checkpoint.open(out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["slerp", "nuslerp"])
def test_ends_are_the_models_bit_for_bit(tmp_path: Path, dtype, method):
    parent, (a, b) = family(tmp_path, 2, dtype=dtype)
    for base in (None,) if method == "slerp" else (None, parent):
        for t, end in ((0.0, a), (1.0, b)):
            result = merge([a, b], MergeSpec(method=method, t=t), tmp_path / f"{t}{base is None}", base=base)
            assert data(result.checkpoint) == data(end)
            assert {i.dtype for i in result.checkpoint.tensors().values()} == {
                i.dtype for i in end.tensors().values()
            }


def test_slerp_between_the_ends_is_the_formula_and_loads(tmp_path: Path, pair):
    a, b = pair
    result = merge([a, b], MergeSpec(t=0.3), tmp_path / "m")
    left, right = values(a), values(b)
    arcs = 0
    for name, got in values(result.checkpoint).items():
        x, y = left[name].double(), right[name].double()
        w = math.acos(min(1, float((x * y).sum() / (x.norm() * y.norm()))))
        if w < 0.03:  # norms of a fresh model: all ones
            want = 0.7 * x + 0.3 * y
        else:
            want = (math.sin(0.7 * w) * x + math.sin(0.3 * w) * y) / math.sin(w)
            arcs += 1
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-7)
    assert arcs > 40
    assert result.tensors == len(left) and result.linear == result.tensors - arcs
    assert 0 < result.linear_share < 0.1
    assert 1.4 < result.mean_angle < result.largest_angle < 1.8  # random models are about orthogonal
    model = result.checkpoint.load()
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert result.checkpoint.chat_tokenizer().chat_template


def test_close_siblings_are_merged_on_a_line_and_the_share_is_reported(tmp_path: Path):
    _, models = family(tmp_path, 2, noise=1e-3)
    result = merge(models, MergeSpec(), tmp_path / "m")
    assert (result.linear, result.linear_share) == (result.tensors, 1.0)
    assert 0 < result.mean_angle < 0.01
    linear = merge(models, MergeSpec(method="linear"), tmp_path / "l")
    assert data(result.checkpoint) == data(linear.checkpoint)
    assert linear.linear_share is None


@pytest.mark.parametrize("method", ["slerp", "linear", *NEED_BASE])
def test_every_method_gives_a_model_that_speaks(tmp_path: Path, method):
    parent, models = family(tmp_path, 2)
    spec = MergeSpec(method=method, **NEED_BASE.get(method, {}))
    base = parent if spec.takes_base else None
    result = merge(models, spec, tmp_path / "m", base=base)
    again = merge(models, spec, tmp_path / "again", base=base)
    assert result.checkpoint.digest == again.checkpoint.digest
    assert result.method == method and result.spec == spec
    assert result.models == [model.digest for model in models]
    assert result.base == (parent.digest if base else None)
    assert json.dumps(result.summary())
    model = result.checkpoint.load()
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()


def test_methods_without_an_arc_are_their_formulas(tmp_path: Path):
    parent, models = family(tmp_path, 3)
    base, each = arrays(parent), [arrays(model) for model in models]
    weights = [0.5, 1.0, -0.25]
    linear = merge(models, MergeSpec(method="linear", weights=weights), tmp_path / "l").checkpoint
    for name, got in arrays(linear).items():
        want = sum(w * m[name].astype(np.float64) for w, m in zip(weights, each, strict=True)) / sum(weights)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    spec = MergeSpec(method="task_arithmetic", weights=weights, lambda_=0.5)
    added = merge(models, spec, tmp_path / "t", base=parent).checkpoint
    for name, got in arrays(added).items():
        deltas = [m[name].astype(np.float64) - base[name] for m in each]
        want = base[name] + 0.5 * sum(w * d for w, d in zip(weights, deltas, strict=True))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_ties_is_the_papers_three_steps(tmp_path: Path):
    parent, models = family(tmp_path, 3)
    base, each = arrays(parent), [arrays(model) for model in models]
    merged = merge(
        models, MergeSpec(method="ties", density=0.2, lambda_=0.9), tmp_path / "m", base=parent
    ).checkpoint
    for name, got in arrays(merged).items():
        trimmed = []
        for model in each:
            delta = (model[name] - base[name]).ravel()
            stay = np.argsort(-np.abs(delta), kind="stable")[: max(1, int(0.2 * delta.size))]
            trimmed.append(np.zeros_like(delta))
            trimmed[-1][stay] = delta[stay]
        stack = np.stack(trimmed).astype(np.float64)
        elected = np.where(stack.sum(0) >= 0, 1, -1)
        agree = np.sign(stack) == elected
        mean = (stack * agree).sum(0) / np.maximum(agree.sum(0), 1)
        np.testing.assert_allclose(got.ravel(), base[name].ravel() + 0.9 * mean, rtol=1e-5, atol=1e-6)


def test_dare_depends_on_its_seed_and_on_nothing_else(tmp_path: Path):
    parent, models = family(tmp_path, 2)

    def dare(seed: int, folder: str, shard: int = 10**9, of=models) -> Checkpoint:
        spec = MergeSpec(method="dare_linear", density=0.4, seed=seed)
        return merge(of, spec, tmp_path / folder, base=parent, max_shard_bytes=shard).checkpoint

    one = dare(1, "one")
    assert data(dare(1, "again")) == data(one)
    assert data(dare(1, "sharded", 30_000)) == data(one)
    assert data(dare(1, "read-sharded", of=[resharded(models[0], tmp_path / "r"), models[1]])) == data(one)
    two = arrays(dare(2, "two"))
    assert all((two[name] != got).mean() > 0.2 for name, got in arrays(one).items() if got.size > 100)


def test_dare_leaves_the_mean_task_vector_as_it_was(tmp_path: Path):
    parent, models = family(tmp_path, 2)
    plain = arrays(merge(models, MergeSpec(method="task_arithmetic"), tmp_path / "p", base=parent).checkpoint)
    runs = 60
    name = "model.layers.0.mlp.up_proj.weight"
    total = np.zeros_like(plain[name], dtype=np.float64)
    for seed in range(runs):
        spec = MergeSpec(method="dare_linear", density=0.5, seed=seed)
        merged = merge(models, spec, tmp_path / f"d{seed}", base=parent).checkpoint
        total += arrays(merged)[name]
    base = arrays(parent)[name]
    off = total / runs - plain[name]
    # Each of the two halves of a task vector varies by its own size: the mean of the runs by this much.
    deviation = np.sqrt(sum((0.5 * (arrays(m)[name] - base)) ** 2 for m in models) / runs)
    assert abs((off / deviation).mean()) < 5 / math.sqrt(off.size)
    assert np.abs(off / deviation).max() < 6


def test_sharded_models_give_what_whole_ones_give(tmp_path: Path, pair):
    a, b = pair
    whole = merge([a, b], MergeSpec(t=0.6), tmp_path / "whole").checkpoint
    sharded = resharded(a, tmp_path / "a-sharded")
    result = merge([sharded, b], MergeSpec(t=0.6), tmp_path / "m", max_shard_bytes=30_000).checkpoint
    assert len(list(result.folder.glob("*.safetensors"))) > 2
    assert data(result) == data(whole)
    result.load()


def test_untied_heads_are_merged_and_tied_ones_stay_tied(tmp_path: Path):
    for tied in (True, False):
        _, models = family(tmp_path / str(tied), 2, tie_word_embeddings=tied)
        merged = merge(models, MergeSpec(), tmp_path / f"m{tied}").checkpoint
        assert ("lm_head.weight" in merged.tensors()) is not tied
        model = merged.load()
        shared = model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
        assert shared is tied


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_merged_in_float32_and_rounded_once(tmp_path: Path, dtype):
    parent, models = family(tmp_path, 2, dtype=dtype)
    wide = [save_as(model, tmp_path / f"w{i}", torch.float32) for i, model in enumerate(models)]
    base = save_as(parent, tmp_path / "wp", torch.float32)
    for method in ("slerp", "linear", "task_arithmetic", "ties"):
        spec = MergeSpec(method=method, **({"t": 0.4} if method == "slerp" else NEED_BASE.get(method, {})))
        with_base = spec.needs_base
        half = merge(models, spec, tmp_path / method, base=parent if with_base else None).checkpoint
        full = merge(wide, spec, tmp_path / f"{method}-32", base=base if with_base else None).checkpoint
        for name, got in values(half).items():
            assert got.dtype == dtype
            assert torch.equal(got, values(full)[name].to(dtype)), (method, name)


def save_as(model: Checkpoint, folder: Path, dtype: torch.dtype) -> Checkpoint:
    out = model.copy_to(folder).folder
    weights = {name: w.to(dtype) for name, w in load_file(out / "model.safetensors").items()}
    (out / "model.safetensors").unlink()
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    config = model.config | {"dtype": str(dtype).removeprefix("torch.")}
    (out / "config.json").write_text(json.dumps(config))
    return Checkpoint.open(out)


def test_a_chosen_dtype_is_saved_and_lets_types_differ(tmp_path: Path, pair):
    a, b = pair
    half = save_as(b, tmp_path / "half", torch.bfloat16)
    result = merge([a, half], MergeSpec(dtype="bfloat16"), tmp_path / "m").checkpoint
    assert {info.dtype for info in result.tensors().values()} == {"BF16"}
    assert result.config["dtype"] == "bfloat16" and a.config["dtype"] == "float32"
    assert result.load(dtype="bfloat16").dtype == torch.bfloat16
    ends = merge([half, a], MergeSpec(t=1, dtype="bfloat16"), tmp_path / "end").checkpoint
    for name, got in values(ends).items():  # an end in another type is that model, rounded
        assert torch.equal(got, values(a)[name].bfloat16())


def test_gradients_give_each_block_its_own(tmp_path: Path):
    _, models = family(tmp_path, 2)  # six blocks
    graded = merge(models, MergeSpec(t=[0, 1]), tmp_path / "g").checkpoint
    for block, t in ((0, 0.0), (3, 0.6), (5, 1.0)):
        plain = merge(models, MergeSpec(t=t), tmp_path / f"t{t}").checkpoint
        inside = f"model.layers.{block}."
        one, other = ({n: w for n, w in data(m).items() if n.startswith(inside)} for m in (graded, plain))
        assert len(one) > 5 and one == other
    first = data(models[0])
    assert data(graded)["model.norm.weight"] == first["model.norm.weight"]  # outside: the gradient's first


def test_patterns_give_tensors_their_own(tmp_path: Path, caplog):
    _, models = family(tmp_path, 2)
    patterns = [{"pattern": "*.mlp.*", "t": 0}, {"pattern": "*.bias", "t": 1}]
    mixed = data(merge(models, MergeSpec(t=1, patterns=patterns), tmp_path / "m").checkpoint)
    ends = [data(model) for model in models]
    assert any(".mlp." in name for name in mixed)
    assert all(mixed[name] == ends[0 if ".mlp." in name else 1][name] for name in mixed)
    assert "*.bias matches no tensor" in caplog.text


def test_weights_that_cancel_are_refused(tmp_path: Path):
    parent, models = family(tmp_path, 2)
    for method in ("linear", "ties"):
        spec = MergeSpec(method=method, weights=[1, -1], normalize=True, **NEED_BASE.get(method, {}))
        with pytest.raises(InputError, match=r"merge\.weights: they sum to 0 for .*; set normalize to false"):
            merge(models, spec, tmp_path / "m", base=parent if spec.needs_base else None)
    assert not (tmp_path / "m").exists()


def test_what_is_not_a_number_has_no_direction(tmp_path: Path):
    _, (a, b) = family(tmp_path, 2)
    weights = load_file(b.folder / "model.safetensors")
    weights["model.norm.weight"][3] = math.nan
    save_file(weights, b.folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"model\.norm\.weight holds values that are not finite"):
        merge([a, Checkpoint.open(b.folder)], MergeSpec(), tmp_path / "m")


def test_many_models_weigh_the_same(tmp_path: Path):
    _, models = family(tmp_path, 3, noise=1e-3)
    result = merge(models, MergeSpec(), tmp_path / "m")
    mean = merge(models, MergeSpec(method="linear"), tmp_path / "l").checkpoint
    # Siblings this close lie on a line, where equal weights are the mean.
    assert apart(arrays(result.checkpoint), arrays(mean), larger(*models)) <= 2
    assert result.linear_share == 1


def test_one_model_is_itself_but_for_task_vectors(tmp_path: Path):
    parent, (a, _) = family(tmp_path, 2)
    for method in ("slerp", "linear", "nuslerp"):
        assert data(merge([a], MergeSpec(method=method), tmp_path / method).checkpoint) == data(a)
    half = MergeSpec(method="task_arithmetic", weights=[0.5])
    merged = merge([a], half, tmp_path / "half", base=parent).checkpoint
    middle = merge([parent, a], MergeSpec(method="linear"), tmp_path / "middle").checkpoint
    assert apart(arrays(merged), arrays(middle), larger(parent, a)) <= 2


def test_small_files_are_those_of_the_first_and_the_card_says_how(tmp_path: Path):
    parent, (a, b) = family(tmp_path, 2)
    (a.folder / "LICENSE").write_text("a's licence")
    (a.folder / "README.md").write_text("a's own card")
    a = Checkpoint.open(a.folder)
    spec = MergeSpec(
        method="dare_ties",
        density=0.25,
        seed=7,
        weights=[0.4, 0.6],
        patterns=[{"pattern": "*.mlp.*", "density": 0.125}],
    )  # fmt: skip
    merge([a, b], spec, tmp_path / "m", base=parent)
    assert (tmp_path / "m" / "LICENSE").read_text() == "a's licence"
    card = (tmp_path / "m" / "README.md").read_text()
    for said in (
        a.digest,
        b.digest,
        parent.digest,
        "dare_ties",
        "0.25",
        "seed: 7",
        "[0.4, 0.6]",
        "*.mlp.*",
        "0.125",
    ):
        assert said in card
    assert "own card" not in card
    record = json.loads((tmp_path / "m" / "merge.json").read_text())
    assert MergeSpec.model_validate(record["spec"]) == spec
    assert record["models"] == [a.digest, b.digest]
    assert record["base"] == record["parent"] == parent.digest


def test_memory_is_a_few_pieces_and_torch_stays_away(tmp_path: Path):
    big = tiny_checkpoint(tmp_path / "parent", hidden_size=256, intermediate_size=50_000, num_hidden_layers=1)
    models = [noisy(big, tmp_path / f"s{seed}", seed) for seed in range(2)]
    assert max(info.nbytes for info in models[0].tensors().values()) > 48 * 2**20
    code = f"""
import os, sys
os.environ["TQDM_DISABLE"] = "1"
from pathlib import Path
from regrow.checkpoint import Checkpoint
from regrow.merge import MergeSpec, merge
models = [Checkpoint.open(f) for f in {[str(m.folder) for m in models]!r}]
base = Checkpoint.open({str(big.folder)!r})
def water():
    return next(int(l.split()[1]) for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM"))
Path("/proc/self/clear_refs").write_text("5")
before = water()
merge(models, MergeSpec(), Path({str(tmp_path / "m")!r}))
merge(models, MergeSpec(method="ties", density=0.2), Path({str(tmp_path / "n")!r}), base=base)
assert "torch" not in sys.modules
print((water() - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 32  # MiB; each of the three large tensors has 48
