"""Models and data that lie in a bucket, fetched from a real S3 store."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from infra.servers import s3
from regrow.checkpoint import digest_of
from regrow.errors import InputError
from regrow.files import sha256_of
from regrow.source import DatasetSpec, ModelSpec, fetch, origin, read_rows, resolve_model
from tests.tiny import tiny_checkpoint

pytestmark = pytest.mark.servers
ROWS = [{"instruction": f"Count to {i}.", "reference": "1 2 3"} for i in range(5)]


@pytest.fixture
def bucket(servers, tmp_path, monkeypatch):
    """A store with a model and a set, and the variables that its client reads."""
    for name, value in servers.variables.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("REGROW_CACHE", str(tmp_path / "cache"))
    store = s3.client(servers.home)
    model = tiny_checkpoint(tmp_path / "model")
    for file in model.folder.rglob("*"):
        if file.is_file():
            store.upload_file(str(file), s3.ZENML_BUCKET, f"sources/model/{file.relative_to(model.folder)}")
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    store.upload_file(str(data), s3.ZENML_BUCKET, "sources/rows.jsonl")
    return store, model, data


def test_a_model_is_fetched_checked_and_stated(bucket, tmp_path):
    _, model, _ = bucket
    spec = ModelSpec(source="s3://zenml/sources/model", sha256=model.digest)
    found = resolve_model(spec, tmp_path / "out")
    assert found.digest == model.digest
    assert origin(spec).uri == "s3://zenml/sources/model"
    assert origin(spec).digest == {"sha256": model.digest}


def test_rows_are_fetched_once(bucket):
    store, _, data = bucket
    spec = DatasetSpec(
        name="rows", source="s3://zenml/sources/rows.jsonl", sha256=sha256_of(data), adapter="columns"
    )
    assert read_rows(spec.source, spec.sha256) == ROWS
    store.delete_object(Bucket=s3.ZENML_BUCKET, Key="sources/rows.jsonl")
    assert read_rows(spec.source, spec.sha256) == ROWS


def test_other_content_is_refused_and_not_kept(bucket, tmp_path):
    store, model, data = bucket
    wanted = sha256_of(data)
    store.put_object(Bucket=s3.ZENML_BUCKET, Key="sources/rows.jsonl", Body=b'{"instruction": "other"}\n')
    store.put_object(Bucket=s3.ZENML_BUCKET, Key="sources/model/extra.json", Body=b"{}")
    with pytest.raises(InputError, match=f"not {wanted}"):
        fetch("s3://zenml/sources/rows.jsonl", wanted)
    with pytest.raises(InputError, match=f"not {model.digest}"):
        fetch("s3://zenml/sources/model", model.digest)
    store.delete_object(Bucket=s3.ZENML_BUCKET, Key="sources/model/extra.json")
    assert not [path for path in Path(tmp_path / "cache").rglob("*") if path.is_file()]
    assert digest_of(fetch("s3://zenml/sources/model", model.digest)) == model.digest


@pytest.mark.parametrize("place", ["s3://zenml/sources/none", "s3://no-such-bucket/rows.jsonl"])
def test_what_is_not_there_is_named(bucket, place):
    with pytest.raises(InputError, match=place):
        fetch(place, "0" * 64)


def test_a_wrong_key_is_said(bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError, match="check credentials"):
        fetch("s3://zenml/sources/rows.jsonl", "0" * 64)
    S3FileSystem.clear_instance_cache()


def test_content_must_be_named():
    with pytest.raises(ValidationError, match="is required"):
        ModelSpec(source="s3://zenml/sources/model")
