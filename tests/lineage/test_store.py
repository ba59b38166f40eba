import json

import pytest

from regrow.errors import InputError
from regrow.lineage import about, attest, chain, describe_folder, describe_value, embed, material
from regrow.lineage.store import read


def _made(folder, *materials, stage="distill", inherit=(), also=()):
    folder.mkdir(exist_ok=True)
    (folder / "rows").write_text(folder.name)
    digest = folder.name.encode().hex().ljust(64, "0")
    statement = attest(
        stage,
        describe_folder(folder, "dataset", digest),
        [material(one, "dataset", digest=one.name.encode().hex().ljust(64, "0")) for one in materials],
        parameters={},
    )
    embed(folder, statement, inherit=[*materials, *inherit], also=also)
    return statement


def _content(folder):
    return {file.name: file.read_bytes() for file in (folder / "provenance").iterdir()}


def test_a_result_carries_the_statements_of_its_materials(tmp_path):
    first = _made(tmp_path / "first")
    second = _made(tmp_path / "second", tmp_path / "first")
    third = _made(tmp_path / "third", tmp_path / "second", tmp_path / "first")
    assert chain(tmp_path / "third") == [first, second, third]
    assert third.materials[0].attestation == second.id
    assert third.materials[0].sha256 == second.subject.sha256
    assert third.materials[0].uri is None
    assert {file.name for file in (tmp_path / "third" / "provenance").iterdir()} == {
        first.file_name,
        second.file_name,
        third.file_name,
    }
    assert about(tmp_path / "third", third.subject.sha256) == third


def test_to_embed_again_changes_nothing(tmp_path):
    _made(tmp_path / "first")
    statement = _made(tmp_path / "second", tmp_path / "first")
    before = _content(tmp_path / "second")
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "second" / "provenance").iterdir()}
    embed(tmp_path / "second", statement, inherit=[tmp_path / "first", tmp_path / "second"])
    assert _content(tmp_path / "second") == before
    assert times == {file: file.stat().st_mtime_ns for file in times}


def test_statements_about_values_go_along(tmp_path):
    scores = attest("evaluate", [describe_value("scores", "12" * 32)], [], parameters={})
    statement = _made(tmp_path / "first", also=[scores])
    assert {one.id for one in chain(tmp_path / "first")} == {scores.id, statement.id}


def test_what_a_killed_run_left_is_cleared_and_foreign_files_are_not_inherited(tmp_path):
    statement = _made(tmp_path / "first")
    place = tmp_path / "first" / "provenance"
    (place / f".{statement.file_name}.partial-1").write_text("half")
    (place / "notes.txt").write_text("foreign")
    embed(tmp_path / "first", statement)
    assert {file.name for file in place.iterdir()} == {statement.file_name, "notes.txt"}
    _made(tmp_path / "second", tmp_path / "first")
    assert not (tmp_path / "second" / "provenance" / "notes.txt").exists()


def test_a_folder_without_statement_is_a_local_source(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "rows").write_text("x")
    found = material(tmp_path / "raw", "dataset")
    assert found.attestation is None
    assert found.uri == "local:raw"
    assert found.annotations == {"source": "local"}
    assert chain(tmp_path / "raw") == []


def test_an_edited_or_renamed_statement_is_not_taken_for_one(tmp_path):
    statement = _made(tmp_path / "first")
    file = tmp_path / "first" / "provenance" / statement.file_name
    value = json.loads(file.read_text())
    value["predicate"]["buildDefinition"]["externalParameters"] = {"seed": 1}
    file.write_text(json.dumps(value, sort_keys=True, separators=(",", ":")))
    with pytest.raises(InputError, match="edited or renamed"):
        read(file)
    assert chain(tmp_path / "first") == []
    assert about(tmp_path / "first", statement.subject.sha256) is None


def test_a_model_carries_its_statement_and_keeps_its_digest(tiny, tmp_path):
    from regrow.checkpoint import Checkpoint
    from regrow.lineage import describe_checkpoint

    statement = attest("load_model", describe_checkpoint(tiny), [], parameters={"source": "here"})
    embed(tiny.folder, statement)
    again = Checkpoint.open(tiny.folder)
    assert again.digest == tiny.digest
    assert material(again, "checkpoint").attestation == statement.id
    assert chain(tiny.copy_to(tmp_path / "copy").folder) == [statement]
