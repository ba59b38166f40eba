"""A statement goes where its model goes; the maker's folders stay at home."""

from pathlib import Path

import pytest

from regrow.cli import main
from regrow.lineage import Resource, attest, audit_folder, chain, describe_value
from regrow.lineage.places import without_place
from tests.lineage.made import merged_model


@pytest.mark.parametrize(
    "text",
    ["hub:org/name@v1", "pypi:a==1#b/c.gguf", "models/base", "/no_think", "/", "..", "...", "~", "a/b: c", "", "/a\n/b",
     "/" + "x" * 5000, "/nul\0l", "~nobody-of-this-name/x", "http://127.0.0.1:8000/v1", "/none/such/place"],
)  # fmt: skip
def test_what_is_no_place_of_this_machine_stays(text):
    assert without_place(text) == text


def test_of_a_place_the_name_is_kept(tmp_path, monkeypatch):
    (tmp_path / "a b").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "a b")
    for text in (
        str(tmp_path / "a b"), f"{tmp_path}/a b/", (tmp_path / "a b").as_uri(), "~/a b", "../a b",
        "file:///gone/long/ago/a%20b",
    ):  # fmt: skip
        assert without_place(text) == "local:a b"
    assert without_place(str(tmp_path / "a b" / "not yet")) == "local:not yet"


def test_a_statement_keeps_names_of_places_wherever_they_stand(tmp_path):
    (tmp_path / "rows.jsonl").write_text("")
    place = tmp_path / "rows.jsonl"
    statement = attest(
        "distill",
        [describe_value("dataset", "ab" * 32)],
        [Resource(name="source", digest={"sha256": "cd" * 32}, uri=str(place))],
        parameters={"data": {"source": str(place), "files": [place, place.as_uri()]}},
        details={"read": str(place)},
    )
    assert str(tmp_path) not in statement.to_json()
    assert statement.materials[0].uri == "local:rows.jsonl"
    assert statement.parameters["data"] == {"source": "local:rows.jsonl", "files": ["local:rows.jsonl"] * 2}


def test_no_file_of_a_model_that_the_stages_made_names_the_makers_folders(tmp_path, capfd):
    model = merged_model(tmp_path / "home" / "ann")
    for file in model.folder.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            assert str(tmp_path).encode() not in data and b"/ann" not in data, file
    load = chain(model.folder)[0]
    assert (load.stage, load.materials[0].uri, load.parameters["source"]) == (
        "load_model", "local:source", "local:source",
    )  # fmt: skip
    result = audit_folder(model.folder)
    assert result.verified
    assert any(
        one.startswith("source, not compared with its origin: local:source") for one in result.not_checked
    )
    bill = tmp_path / "bill.json"
    assert main(["export", str(model.folder), "--cyclonedx", "--out", str(bill)]) == 0
    assert str(tmp_path) not in bill.read_text() and "local:source" in bill.read_text()


def test_a_local_source_is_found_again_by_its_digest(tmp_path):
    """What the audit would need the path for: the digest names the folder, wherever it lies now."""
    from regrow.checkpoint import digest_of

    model = merged_model(tmp_path)
    (tmp_path / "source").rename(tmp_path / "moved")
    load = chain(model.folder)[0]
    assert load.materials[0].sha256 == digest_of(Path(tmp_path / "moved"))
