"""Merges beside those of mergekit 0.1.5: whole runs on tiny models, SmolLM2's tensors by mergekit's own functions.

Differences are counted in units of the last place (float32) of the larger of the merged entries: what one rounding of
a sum of them can make. An arc's angle is compared with mergekit in float64, because in float32 it sums norms to five
digits only.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from regrow import tensors
from regrow.checkpoint import Checkpoint
from regrow.merge import MergeSpec, merge, read_mergekit, write_mergekit
from tests.merge.models import apart, arrays, family, larger, noisy
from tests.real_models import smollm2

SPECS = {
    "slerp": MergeSpec(t=0.3),
    "slerp-graded": MergeSpec(t=[0.1, 0.9], patterns=[{"pattern": "*mlp*", "t": [1, 0, 0.5]}]),
    "linear": MergeSpec(method="linear", weights=[0.3, [0.2, 0.9]]),
    "task-arithmetic": MergeSpec(method="task_arithmetic", weights=[0.3, 0.9], lambda_=0.8),
    "ties": MergeSpec(
        method="ties",
        weights=[0.3, 0.9],
        density=[0.5, 0.2],
        patterns=[{"pattern": "*mlp*", "density": [1, 0.3]}],
    ),
    "nuslerp": MergeSpec(method="nuslerp", t=[0.2, 0.6]),
    "nuslerp-without-parent": MergeSpec(method="nuslerp", t=0.25),
    "linear-bfloat16": MergeSpec(method="linear", weights=[0.3, 0.9], dtype="bfloat16"),
}


@pytest.mark.parametrize("name", SPECS)
def test_a_written_file_run_by_mergekit_gives_the_same_weights(tmp_path: Path, name):
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    spec = SPECS[name]
    parent, models = family(tmp_path, 2, tie_word_embeddings=False)
    base = parent if spec.takes_base and "without" not in name else None
    text = write_mergekit(
        [str(m.folder) for m in models], spec, base=str(base.folder) if base else None, stored="float32"
    )
    given = MergeConfiguration.model_validate(yaml.safe_load(text))
    run_merge(given, str(tmp_path / "theirs"), MergeOptions(quiet=True, write_model_card=False))
    (tmp_path / "m.yml").write_text(text)
    config = read_mergekit(tmp_path / "m.yml")
    assert [str(m.folder) for m in models] == config.models
    ours = merge(models, config.spec, tmp_path / "ours", base=base).checkpoint
    theirs = Checkpoint.open(tmp_path / "theirs")
    found, wanted = arrays(ours), arrays(theirs)
    if spec.dtype == "bfloat16":
        assert {info.dtype for info in theirs.tensors().values()} == {"BF16"}
        assert all(np.array_equal(found[n], wanted[n]) for n in wanted)
    else:
        assert apart(found, wanted, larger(*models, parent)) <= 1


@pytest.fixture(scope="module")
def smollm2_siblings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm2")
    parent = smollm2(folder / "parent", "float32")
    # Some tensors lie on arcs, some on lines.
    return parent, [noisy(parent, folder / str(seed), seed, 0.1, rest=0.01) for seed in range(2)]


REAL = {
    "slerp": MergeSpec(t=0.3),
    "linear": MergeSpec(method="linear", weights=[0.3, 0.9]),
    "task_arithmetic": MergeSpec(method="task_arithmetic", weights=[0.3, 0.9], lambda_=0.8),
    "ties": MergeSpec(method="ties", weights=[0.3, 0.9], density=0.2),
}


@pytest.mark.real
@pytest.mark.parametrize("method", REAL)
def test_smollm2_is_merged_as_mergekit_merges_it(tmp_path: Path, smollm2_siblings, method):
    from mergekit.merge_methods.api import merge_tensors

    spec, (parent, (a, b)) = REAL[method], smollm2_siblings
    result = merge([a, b], spec, tmp_path / "m", base=parent if spec.needs_base else None)
    indexes = [one.tensors() for one in (parent, a, b, result.checkpoint)]
    names = list(indexes[0])
    if method == "ties":  # mergekit sorts every tensor: some of the 272 must do
        names = [n for n in names if ".1." in n or ".17." in n or n == "model.norm.weight"]
    parameters = {
        "slerp": {"t": 0.3},
        "linear": {"weight": [0.3, 0.9]},
        "task_arithmetic": {"weight": [0.3, 0.9], "lambda": 0.8},
        "ties": {"weight": [0.3, 0.9], "density": 0.2},
    }[method]
    worst = 0.0
    for name in names:
        base, x, y, got = (tensors.load(index[name], name) for index in indexes)
        given = [base, x, y] if spec.needs_base else [x, y]
        want = merge_tensors(
            given, method, parameters=parameters, base_index=None if method == "linear" else 0,
            dtype=torch.float64 if method == "slerp" else None, out_dtype=torch.float32,
        )  # fmt: skip
        largest = torch.stack([one.abs() for one in given]).amax(0)
        step = torch.from_numpy(np.spacing(largest.numpy())).double()
        off = (got.double() - want.double()).abs() / step
        if method == "ties":  # of entries that are equal at the limit mergekit keeps any
            off[equal_at_the_limit(x - base, 0.2) | equal_at_the_limit(y - base, 0.2)] = 0
        worst = max(worst, float(off.max()))
    assert worst <= 1
    if method == "slerp":
        assert 0.2 < result.linear_share < 1


def equal_at_the_limit(delta: torch.Tensor, density: float) -> torch.Tensor:
    size = delta.abs()
    limit = size.flatten().kthvalue(size.numel() - max(1, int(density * size.numel())) + 1).values
    found = size == limit
    return found if found.sum() > 1 else torch.zeros_like(found)


def test_mergekit_is_an_oracle_and_nothing_more():
    for file in Path(tensors.__file__).parent.rglob("*.py"):
        for line in file.read_text().splitlines():
            assert not line.strip().startswith(("import mergekit", "from mergekit")), file
