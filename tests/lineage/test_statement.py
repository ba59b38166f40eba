import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from in_toto_attestation.v1 import statement as in_toto
from in_toto_attestation.v1 import statement_pb2
from pydantic import BaseModel

from regrow.checkpoint import digest_of
from regrow.errors import InputError, RegrowError
from regrow.files import write_json
from regrow.lineage import (
    Resource,
    Statement,
    attest,
    describe_checkpoint,
    describe_folder,
    describe_value,
    lock_digest,
)
from regrow.tensors import index


class Spec(BaseModel):
    blocks: int = 2
    seed: int | None = None


def _statement(**changes):
    given = {"parameters": {"spec": Spec(), "out": Path("a/b"), "rate": 1e-05, "names": {"b", "a"}}} | changes
    return attest("prune", [describe_value("plan", "ab" * 32)], [], **given)


def test_a_statement_is_one_to_in_toto():
    text = _statement(details={"seed": 3}).to_json()
    parsed = in_toto.Statement.copy_from_pb(_parse(text))
    parsed.validate()
    written = json.loads(text)
    assert written["_type"] == "https://in-toto.io/Statement/v1"
    assert written["predicateType"] == "https://slsa.dev/provenance/v1"
    definition = written["predicate"]["buildDefinition"]
    assert definition["buildType"] == "https://regrow.dev/stage/prune/v1"
    assert definition["externalParameters"] == {
        "spec": {"blocks": 2, "seed": None},
        "out": "a/b",
        "rate": 1e-05,
        "names": ["a", "b"],
    }
    assert definition["internalParameters"] == {"seed": 3}
    assert definition["resolvedDependencies"] == []


def _parse(text):
    from google.protobuf import json_format

    return json_format.Parse(text, statement_pb2.Statement())


def test_the_id_is_the_digest_of_the_file_and_reading_loses_nothing():
    statement = _statement()
    data = statement.to_json().encode()
    assert statement.id == sha256(data).hexdigest()
    read = Statement.from_json(data)
    assert read == statement
    assert read.to_json().encode() == data
    assert read.file_name == f"prune-{statement.id[:16]}.json"


def test_fields_of_a_later_format_survive_reading():
    value = json.loads(_statement().to_json())
    value["predicate"]["runDetails"]["byproducts"] = [{"name": "log", "digest": {"sha256": "cd" * 32}}]
    value["subject"][0]["mediaType"] = "application/json"
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert Statement.from_json(text).to_json() == text


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text.replace(",", ", ", 1), "canonical"),
        (lambda text: text[:-1] + ',"_type":"https://in-toto.io/Statement/v1"}', "canonical"),
        (lambda text: text + "\n", "canonical"),
        (lambda text: text[:-1], "not JSON"),
        (lambda text: text.replace("stage/prune", "stage/../x"), "buildType"),
        (lambda text: text.replace("Statement/v1", "Statement/v0.1"), "_type"),
        (lambda text: text.replace('"plan"', '"pl\\ud800n"'), "not"),
        (lambda _: "[]", "not a statement"),
        (lambda _: "[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_statement_is_refused(edit, message):
    with pytest.raises(InputError, match=message):
        Statement.from_json(edit(_statement().to_json()))


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], object(), b"bytes"])
def test_values_that_json_lacks_are_refused(value):
    with pytest.raises(InputError, match="JSON cannot hold"):
        _statement(details={"loss": value})


def test_a_statement_needs_a_subject():
    with pytest.raises(InputError, match="subject"):
        attest("prune", [], [], parameters={})


def test_a_statement_says_what_built_it_and_when(monkeypatch):
    monkeypatch.setenv("REGROW_IMAGE_DIGEST", "registry/regrow@sha256:" + "ef" * 32)
    monkeypatch.setenv("REGROW_COMMIT", "12" * 20)
    run = _statement(started=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)).predicate.run_details
    assert run.metadata.started_on == "2026-01-02T03:04:05.000Z"
    assert run.metadata.finished_on.endswith("Z") and run.metadata.finished_on > run.metadata.started_on
    assert {"regrow", "python", "torch", "transformers"} <= set(run.builder.version)
    parts = {one.name: one.digest for one in run.builder.builder_dependencies}
    assert parts == {
        "code": {"gitCommit": "12" * 20},
        "image": {"sha256": "ef" * 32},
        "packages": {"sha256": lock_digest()},
    }


def test_a_pod_names_its_image_by_reference_and_a_tag_is_no_digest(monkeypatch):
    def images():
        parts = _statement().predicate.run_details.builder.builder_dependencies
        return [one.digest for one in parts if one.name == "image"]

    monkeypatch.delenv("REGROW_IMAGE_DIGEST", raising=False)
    monkeypatch.setenv("REGROW_IMAGE", "10.0.0.1:5000/regrow-base@sha256:" + "ab" * 32)
    assert images() == [{"sha256": "ab" * 32}]
    monkeypatch.setenv("REGROW_IMAGE", "10.0.0.1:5000/regrow-base:latest")
    assert images() == []


@pytest.mark.parametrize("dirty", [False, True])
def test_an_image_says_in_a_file_which_code_it_has(tmp_path, monkeypatch, dirty):
    monkeypatch.delenv("REGROW_COMMIT", raising=False)
    monkeypatch.setattr("regrow.lineage.environment._SOURCE", tmp_path)
    write_json(tmp_path / ".code.json", {"commit": "34" * 20, "dirty": dirty})
    parts = _statement().predicate.run_details.builder.builder_dependencies
    code = next(one for one in parts if one.name == "code")
    assert code.digest == {"gitCommit": "34" * 20} and code.annotations == {"dirty": dirty}


def test_a_checkpoint_is_described_file_by_file_and_tensor_by_tensor(tiny):
    head, *files = describe_checkpoint(tiny)
    assert (head.name, head.sha256) == ("checkpoint", tiny.digest)
    assert {one.name for one in files} == {path.name for path in tiny.folder.iterdir()}
    for one in files:
        data = (tiny.folder / one.name).read_bytes()
        assert one.sha256 == sha256(data).hexdigest()
        assert one.annotations["size"] == len(data)
    weights = next(one for one in files if one.name == "model.safetensors")
    data = (tiny.folder / weights.name).read_bytes()
    assert weights.annotations["tensors"] == {
        name: sha256(data[info.start : info.end]).hexdigest() for name, info in index(tiny.folder).items()
    }


def test_a_checkpoint_that_changed_since_it_was_opened_is_not_described(tiny):
    (tiny.folder / "config.json").write_text((tiny.folder / "config.json").read_text() + " ")
    with pytest.raises(RegrowError, match="writes into this folder"):
        describe_checkpoint(tiny)


def test_a_folder_of_another_kind_has_its_own_digest_and_a_manifest(tmp_path):
    (tmp_path / "provenance").mkdir()
    (tmp_path / "provenance" / "x").write_text("not described")
    (tmp_path / "records.parquet").write_bytes(b"rows")
    head, file = describe_folder(tmp_path, "dataset", "ab" * 32)
    assert head == Resource(
        name="dataset", digest={"sha256": "ab" * 32}, annotations={"manifest": digest_of(tmp_path)}
    )
    assert (file.name, file.annotations) == ("records.parquet", {"size": 4})
