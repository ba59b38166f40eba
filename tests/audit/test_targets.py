"""Targets of the audit: what MLflow loads around a checkpoint is looked at, and a store writes nowhere else."""

import json
import shutil
from pathlib import Path
from typing import ClassVar

import pytest
from fsspec import AbstractFileSystem
from fsspec.registry import _registry

from regrow.cli import main
from tests.lineage.models import build_chain, small_files
from tests.registry.stored import store

CODE = "import mlflow.transformers as real\n\ndef _load_pyfunc(path, **more):\n    return real._load_pyfunc(path)\n"


class Bucket(AbstractFileSystem):
    """A store whose listing is what somebody put there, names with dots included."""

    protocol = "gs"
    cachable = False
    objects: ClassVar[dict[str, bytes]] = {}

    def isdir(self, path):
        return any(name.startswith(f"{path}/") for name in self.objects)

    def find(self, path, **more):
        return [name for name in self.objects if name.startswith(f"{path}/")]

    def get_file(self, rpath, lpath, **more):
        Path(lpath).write_bytes(self.objects[rpath])


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A merged model with its statements, stored as the pipeline does."""
    folder = tmp_path_factory.mktemp("original")
    return store(build_chain(folder, small_files(folder / "small")).merged, folder / "stored")


@pytest.fixture
def model(original, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "REGROW_VERIFY_KEY", "REGROW_VERIFY_ROOTS"):
        monkeypatch.delenv(name, raising=False)
    return Path(shutil.copytree(original, tmp_path / "model"))


@pytest.fixture
def bucket(monkeypatch) -> dict[str, bytes]:
    monkeypatch.setitem(_registry, "gs", Bucket)
    Bucket.objects.clear()
    return Bucket.objects


def uploaded(bucket: dict[str, bytes], model: Path) -> str:
    files = [file for file in model.rglob("*") if file.is_file()]
    bucket |= {f"bucket/one/{file.relative_to(model)}": file.read_bytes() for file in files}
    return "gs://bucket/one"


def named(kind: str, model: Path, bucket: dict[str, bytes]) -> str:
    if kind == "store":
        return uploaded(bucket, model)
    return model.as_uri() if kind == "file" else str(model)


def audit(capfd, *arguments: object) -> tuple[int, dict]:
    status = main(["audit", *map(str, arguments), "--json"])
    return status, json.loads(capfd.readouterr().out)


@pytest.mark.parametrize("kind", ["folder", "file", "store"])
def test_the_audit_looks_at_what_lies_around_the_checkpoint(model, bucket, capfd, kind):
    status, result = audit(capfd, named(kind, model, bucket))
    assert (status, result["failures"]) == (0, [])
    assert {"what": "MLflow model around it", "outcome": "passed", "detail": ""} in result["checks"]
    assert any(one.startswith("README.md") for one in result["not_checked"])
    assert any(one.startswith("registry, promotion record") for one in result["not_checked"])

    template = model / "components" / "tokenizer" / "chat_template.jinja"
    template.write_text("evil" + template.read_text())
    (model / "code").mkdir()
    (model / "code" / "evil.py").write_text(CODE)
    description = model / "MLmodel"
    description.write_text(
        description.read_text().replace("loader_module: mlflow.transformers", "loader_module: evil")
    )
    status, result = audit(capfd, named(kind, model, bucket))
    assert status == 3
    assert {(one["what"], one["where"]) for one in result["failures"]} == {
        ("file changed", "components/tokenizer/chat_template.jinja"),
        ("file added", "code/evil.py"),
        ("field changed", "MLmodel: flavors.python_function.loader_module"),
    }
    # Who names the checkpoint alone asks about the checkpoint alone.
    status, result = audit(capfd, model / "checkpoint")
    assert (status, [one["what"] for one in result["checks"]]) == (0, ["digest"])


def test_a_checkpoint_that_was_moved_in_its_model_does_not_verify(model, capfd):
    (model / "checkpoint").rename(model / "other")
    status, result = audit(capfd, model)
    assert status == 3
    assert ("file removed", "checkpoint/") in {(one["what"], one["where"]) for one in result["failures"]}


def test_the_report_does_not_go_into_the_model(model, capfd):
    assert main(["audit", str(model), "--out", str(model / "report")]) == 2
    assert "lies in what is audited" in capfd.readouterr().err
    assert not (model / "report").exists()


@pytest.mark.parametrize("name", ["../../../escaped", "checkpoint/../../escaped", "/escaped"])
def test_a_name_in_a_store_that_leads_out_of_the_folder_is_refused(
    model, bucket, capfd, tmp_path, monkeypatch, name
):
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(place))
    uri = uploaded(bucket, model)
    bucket[f"bucket/one/{name}"] = b"somebody's"
    assert main(["audit", uri]) == 2
    assert f"a name that leads out of it ({name})" in capfd.readouterr().err
    assert list(tmp_path.rglob("escaped")) == [] and not Path("/escaped").exists()
    assert list(place.iterdir()) == []
