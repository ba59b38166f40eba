from pathlib import Path

import pytest
import yaml

from regrow.errors import InputError
from regrow.merge import MergeSpec, read_mergekit, write_mergekit

SLERP = """
slices:
  - sources:
      - model: org/a
        layer_range: [0, 32]
      - model: org/b
        layer_range: [0, 32]
merge_method: slerp
base_model: org/b
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
dtype: bfloat16
"""
TIES = """
models:
  - model: org/base
  - model: org/a
    parameters:
      density: 0.5
      weight: 0.3
  - model: org/b
    parameters:
      density: [1, 0.7, 0.1]
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: org/base
parameters:
  normalize: true
  int8_mask: true
  lambda: "1e-1"
tokenizer_source: base
dtype: float16
"""


def read(tmp_path: Path, text: str):
    file = tmp_path / "m.yml"
    file.write_text(text)
    return read_mergekit(file)


def test_slices_filters_and_gradients(tmp_path: Path):
    config = read(tmp_path, SLERP)
    assert (config.models, config.base, config.blocks) == (
        ["org/b", "org/a"],
        None,
        32,
    )  # t = 0 gives base_model
    assert config.spec == MergeSpec(
        method="slerp", t=0.5, dtype="bfloat16",
        patterns=[
            {"pattern": "*self_attn*", "t": [0, 0.5, 0.3, 0.7, 1]},
            {"pattern": "*mlp*", "t": [1, 0.5, 0.7, 0.3, 0]},
        ],
    )  # fmt: skip


def test_parameters_of_one_model_and_of_all(tmp_path: Path):
    config = read(tmp_path, TIES)
    assert (config.models, config.base, config.blocks) == (["org/a", "org/b"], "org/base", None)
    assert config.spec == MergeSpec(
        method="ties", weights=[0.3, 0], density=[0.5, [1, 0.7, 0.1]], lambda_=0.1, dtype="float16",
        patterns=[{"pattern": "*mlp*", "weights": [None, 0.5]}],
    )  # fmt: skip
    shared = "merge_method: linear\nmodels: [{model: a}, {model: b, parameters: {weight: 2}}]\nparameters: {weight: 1}"
    assert read(tmp_path, shared).spec == MergeSpec(method="linear", weights=[1, 2])


def test_nuslerps_weights_are_a_place(tmp_path: Path):
    text = """
merge_method: nuslerp
models:
  - {model: a, parameters: {weight: [{filter: mlp, value: [3, 1]}, {value: 1}]}}
  - {model: b, parameters: {weight: [{filter: mlp, value: [1, 3]}, {value: 3}]}}
"""
    patterns = [{"pattern": "*mlp*", "t": [0.25, 0.75]}]
    assert read(tmp_path, text).spec == MergeSpec(method="nuslerp", t=0.75, patterns=patterns)


def linear(**changes) -> dict:
    models = [{"model": name, "parameters": {"weight": 1}} for name in "ab"]
    return {"merge_method": "linear", "models": models} | changes


def sliced(*ranges) -> dict:
    slices = [{"sources": [{"model": n, "layer_range": list(r)} for n in "ab"]} for r in ranges]
    return {"merge_method": "slerp", "base_model": "a", "slices": slices, "parameters": {"t": 0.5}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (linear(merge_method="della"), r"m\.yml: merge_method: della is not among slerp, nuslerp"),
        (linear(modules={}), r"modules: regrow does not have this"),
        (linear(chat_template="auto"), r"chat_template: regrow does not have this"),
        (linear(tokenizer={"source": "union"}), r"tokenizer: regrow does not have this"),
        (linear(tokenizer_source="union"), r"tokenizer_source: union: regrow merges models of one tokenizer only"),
        (linear(dtype="int8"), r"dtype: int8 is not among"),
        (linear(models=[]), r"models: missing"),
        (linear(models=[{"model": "a+lora"}, {"model": "b"}]), r"models\.model: a\+lora: adapters are not merged here"),
        (linear(models=[{"model": "a"}, {"model": "a"}]), r"models: a model is listed twice"),
        (linear(models=[{"model": "a"}, {"model": "b"}]), r"parameters\.weight: missing for tensors that no filter"),
        (linear(parameters={"magic": 1}), r"parameters\.magic: regrow does not have this"),
        (linear(parameters={"normalize": [True]}), r"parameters\.normalize: must be one value here"),
        (linear(parameters={"rescale": True}), r"parameters\.rescale: must be false with method linear"),
        (linear(parameters={"density": 0.5}), r"parameters\.density: method linear does not have it"),
        (linear(merge_method="ties"), r"base_model: missing; method ties"),
        (linear(merge_method="slerp"), r"base_model: method slerp names one"),
        (linear(merge_method="slerp", base_model="c"), r"models: method slerp takes two; these are 3"),
        (linear(merge_method="nuslerp", parameters={"nuslerp_row_wise": True}), r"row_wise: True is not to be had"),
        (linear(base_model="c"), r"base_model: must be one of the models with method linear"),
        (sliced((0, 4), (4, 8)), r"slices: regrow does not rearrange blocks"),
        (sliced((2, 4)), r"slices\.layer_range: must be all blocks"),
        (sliced((0, 4)) | {"parameters": {"t": "half"}}, r"parameters\.t: half is not a number"),
        (sliced((0, 4)) | {"parameters": {"t": 2}}, r"m\.yml\.t: 2 is out of range"),
        ([1], r"not a mergekit configuration"),
    ],
)  # fmt: skip
def test_what_regrow_does_not_have_is_refused_by_key(tmp_path: Path, given, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, yaml.safe_dump(given))


def test_a_file_that_is_none(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        read_mergekit(tmp_path / "none.yml")
    with pytest.raises(InputError, match="not valid YAML"):
        read(tmp_path, "a: [")


SPECS = [
    MergeSpec(),
    MergeSpec(t=[0, 0.5, 1], patterns=[{"pattern": "*mlp*", "t": 0.25}, {"pattern": "*norm*", "t": [1, 0]}]),
    MergeSpec(method="linear", weights=[0.3, [0.1, 0.9]], normalize=False, dtype="float32"),
    MergeSpec(method="task_arithmetic", weights=[0.5, 0.25], lambda_=0.7),
    MergeSpec(
        method="ties", weights=[1, 2], density=[0.5, [0.2, 0.8]],
        patterns=[
            {"pattern": "*q_proj*", "weights": [2, None]},
            {"pattern": "*[*]odd*", "weights": [None, 3], "density": [0.5, 0.5]},
        ],
    ),
    MergeSpec(method="dare_ties", weights=[0.5, 0.5], density=[0.25, 0.25]),
    MergeSpec(method="dare_linear", weights=[0.5, 0.5], density=[0.25, 1], dtype="bfloat16"),
    MergeSpec(method="nuslerp", t=[0.25, 0.75], patterns=[{"pattern": "*mlp*", "t": 0.5}]),
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.method)
def test_what_is_written_is_read_again(tmp_path: Path, spec):
    base = "the/parent" if spec.takes_base else None
    text = write_mergekit(["one/a", "two/b"], spec, base=base)
    config = read(tmp_path, text)
    assert (config.models, config.base, config.spec) == (["one/a", "two/b"], base, spec)
    assert write_mergekit(config.models, config.spec, base=config.base) == text


def test_what_is_shorter_in_regrow_is_read_as_the_same(tmp_path: Path):
    spec = MergeSpec(method="ties", density=0.5)  # equal weights, one density for all
    again = read(tmp_path, write_mergekit(["a", "b"], spec, base="p", stored="bfloat16")).spec
    assert again.at("w", 0, 2) == spec.at("w", 0, 2)
    assert again.dtype == "bfloat16"


def test_what_mergekit_cannot_say_is_refused():
    for pattern in ("model.layers.3.*", "*a*b*", "**", "*"):
        with pytest.raises(InputError, match="cannot be said in mergekit's YAML"):
            write_mergekit(["a", "b"], MergeSpec(patterns=[{"pattern": pattern, "t": 0}]))
    with pytest.raises(InputError, match="mergekit's slerp takes two models, not 3"):
        write_mergekit(["a", "b", "c"], MergeSpec())
    with pytest.raises(InputError, match="needs the models' parent"):
        write_mergekit(["a", "b"], MergeSpec(method="ties", density=0.5))
