"""Checkpoints in a local and in a remote artifact store: what comes back, and what MLflow makes of it."""

import json
from pathlib import Path

import pytest

from materializers.checkpoint import CheckpointMaterializer
from regrow.checkpoint import Checkpoint, digest_of
from regrow.errors import RegrowError
from regrow.registry.alterations import alterations


def materializer(store, name: str) -> CheckpointMaterializer:
    uri = f"{store.path}/{name}"
    Path(uri).mkdir()
    return CheckpointMaterializer(uri=uri, artifact_store=store)


def attested(checkpoint: Checkpoint, text: str = "{}") -> Checkpoint:
    folder = checkpoint.folder / "provenance"
    folder.mkdir(exist_ok=True)
    (folder / "prune-0123456789abcdef.json").write_text(text)
    (folder / "prune-0123456789abcdef.sig").write_text("signature")
    return Checkpoint.open(checkpoint.folder)


def test_what_is_stored_is_the_checkpoint_and_an_mlflow_model(store, tiny):
    import mlflow

    stored = materializer(store, "one")
    stored.save(tiny)
    back = stored.load(Checkpoint)
    assert back.digest == tiny.digest == digest_of(Path(stored.uri) / "checkpoint")
    weights = Path(stored.uri) / "checkpoint" / "model.safetensors"
    assert weights.samefile(tiny.folder / "model.safetensors")  # linked, not copied
    pipeline = mlflow.transformers.load_model(stored.uri)
    assert pipeline("Grass", max_new_tokens=3)[0]["generated_text"].startswith("Grass")
    assert alterations(Path(stored.uri), tiny.digest) == []


def test_mlflow_finds_signature_example_requirements_and_card(store, tiny):
    import mlflow

    (tiny.folder / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004\n")
    stored = materializer(store, "one")
    stored.save(Checkpoint.open(tiny.folder))
    model = mlflow.models.Model.load(stored.uri)
    assert model.signature.inputs.to_dict() == [{"type": "string", "required": True}]
    assert [one.name for one in model.signature.params] == ["max_new_tokens"]
    example = model.load_input_example(stored.uri)
    assert model.load_input_example(stored.uri)
    answers = mlflow.pyfunc.load_model(stored.uri).predict(example, params={"max_new_tokens": 3})
    assert len(answers) == 1 and answers[0].startswith(example[0])
    needed = Path(mlflow.pyfunc.get_model_dependencies(stored.uri)).read_text()
    assert "transformers==" in needed and "torch==" in needed
    card = (Path(stored.uri) / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n")
    assert "Most restrictive licence: Apache-2.0 (permissive)" in card
    assert model.metadata["regrow.digest"] == Checkpoint.open(tiny.folder).digest


def test_the_attestation_chain_comes_back_and_is_no_part_of_the_digest(store, tiny):
    plain = tiny.digest
    stored = materializer(store, "one")
    stored.save(attested(tiny))
    back = stored.load(Checkpoint)
    assert back.digest == plain
    assert (back.folder / "provenance/prune-0123456789abcdef.sig").read_text() == "signature"
    (back.folder / "provenance/prune-0123456789abcdef.json").write_text('{"another": 1}')
    with pytest.raises(RegrowError, match=r"changed: provenance/prune-0123456789abcdef\.json"):
        stored.load(Checkpoint)


def test_the_same_model_with_two_histories_keeps_both_in_a_remote_store(store, tiny, tmp_path, monkeypatch):
    for module in ("materializers.folders", "materializers.checkpoint"):
        monkeypatch.setattr(f"{module}.is_local", lambda _uri: False)
    monkeypatch.setenv("REGROW_CACHE", str(tmp_path / "cache"))
    first, second = materializer(store, "one"), materializer(store, "two")
    first.save(attested(tiny, '{"history": 1}'))
    second.save(attested(tiny, '{"history": 2}'))
    told = [
        json.loads((one.load(Checkpoint).folder / "provenance/prune-0123456789abcdef.json").read_text())
        for one in (first, second)
    ]
    assert told == [{"history": 1}, {"history": 2}]
    assert first.load(Checkpoint).digest == second.load(Checkpoint).digest


def test_a_changed_file_is_named(store, tiny):
    stored = materializer(store, "one")
    stored.save(tiny)
    (Path(stored.uri) / "checkpoint" / "chat_template.jinja").write_text("other")
    with pytest.raises(RegrowError, match=r"changed: chat_template\.jinja"):
        stored.load(Checkpoint)


def test_what_an_older_regrow_has_stored_is_still_read(store, tiny):
    stored = materializer(store, "one")
    stored.save(tiny)
    file = Path(stored.uri) / "manifest.json"
    record = json.loads(file.read_text())
    del record["provenance"]
    file.write_text(json.dumps(record))
    assert stored.load(Checkpoint).digest == tiny.digest


def test_a_model_without_tokenizer_is_stored_all_the_same(store, tiny):
    for file in tiny.folder.glob("tokenizer*"):
        file.unlink()
    bare = Checkpoint.open(tiny.folder)
    stored = materializer(store, "one")
    stored.save(bare)
    assert stored.load(Checkpoint).digest == bare.digest
    assert not (Path(stored.uri) / "MLmodel").exists()
