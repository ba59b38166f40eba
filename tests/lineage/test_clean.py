"""Nobody tampered: no false alarm, whatever happened to the folder that leaves its content alone."""

import os
import shutil
import tarfile

import pytest

from regrow.audit import resolve
from regrow.checkpoint import Checkpoint
from regrow.lineage import (
    Statement,
    Verifier,
    attest,
    audit_folder,
    chain,
    describe_checkpoint,
    describe_value,
    embed,
    material,
)
from tests.lineage.models import HUB, build_chain, copy_of

FOLDERS = ("base", "pruned", "tuned-a", "tuned-b", "merged", "data-a", "data-b")
CARRIED = {}


def _carried(function):
    CARRIED[function.__name__.strip("_")] = function
    return function


def _clean(result):
    assert result.failures == []
    assert result.verified
    return result


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("kind", ["unsigned", "signed", "signed, without the key"])
def test_every_folder_of_a_chain(name, kind, request, keys):
    chain = request.getfixturevalue(kind.partition(",")[0])
    verifier = Verifier(key=keys[1]) if kind == "signed" else None
    result = _clean(audit_folder(chain.base.folder.parent / name, verifier=verifier))
    assert result.signature == {"unsigned": "unsigned", "signed": "valid"}.get(kind, "unchecked")


@_carried
def copied(folder, place):
    return copy_of(folder, place / "copy")


@_carried
def moved(folder, place):
    return shutil.move(copy_of(folder, place / "copy"), place / "elsewhere")


@_carried
def hard_linked(folder, place):
    return shutil.copytree(folder, place / "linked", copy_function=os.link)


@_carried
def of_links(folder, place):
    """As the hub's cache has it: every file a symbolic link."""
    return shutil.copytree(folder, place / "links", copy_function=os.symlink)


@_carried
def behind_a_link(folder, place):
    (place / "link").symlink_to(folder, target_is_directory=True)
    return place / "link"


@_carried
def with_statements_elsewhere(folder, place):
    copy = copy_of(folder, place / "copy")
    shutil.move(copy / "provenance", place / "statements")
    (copy / "provenance").symlink_to(place / "statements", target_is_directory=True)
    return copy


@_carried
def of_another_day(folder, place):
    copy = copy_of(folder, place / "copy")
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
    return copy


@_carried
def read_only(folder, place):
    copy = copy_of(folder, place / "copy")
    for path in copy.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return copy


@_carried
def saved_again(folder, place):
    copy = copy_of(folder, place / "copy")
    for path in copy.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes())
    return copy


@_carried
def packed_and_unpacked(folder, place):
    with tarfile.open(place / "model.tar", "w") as archive:
        archive.add(folder, arcname="model")
    with tarfile.open(place / "model.tar") as archive:
        archive.extractall(place, filter="data")
    return place / "model"


@_carried
def copied_by_regrow(folder, place):
    return Checkpoint.open(folder).copy_to(place / "copy").folder


@_carried
def opened_and_loaded_by_name(folder, place):
    copy = copy_of(folder, place / "copy")
    Checkpoint.open(copy).tokenizer()
    Checkpoint.open(copy).tensors()
    return copy


@_carried
def embedded_again(folder, place):
    copy = copy_of(folder, place / "copy")
    for statement in chain(copy):
        embed(copy, statement, inherit=[folder])
    return copy


@_carried
def in_an_odd_place(folder, place):
    return copy_of(folder, place / "models für 100 % & more" / "a b")


@_carried
def with_an_empty_folder(folder, place):
    copy = copy_of(folder, place / "copy")
    (copy / "empty").mkdir()
    return copy


@pytest.mark.parametrize("name", CARRIED)
def test_a_folder_that_was(name, signed, keys, tmp_path):
    folder = CARRIED[name](signed.merged.folder, tmp_path)
    result = _clean(audit_folder(folder, verifier=Verifier(key=keys[1])))
    assert (result.digest, result.signature) == (signed.merged.digest, "valid")


@pytest.mark.parametrize("way", ["relative", "slash", "uri", "parent", "text"])
def test_a_folder_named_in_another_way(way, unsigned, monkeypatch):
    folder = unsigned.merged.folder
    monkeypatch.chdir(folder.parent)
    name = {
        "relative": folder.name,
        "slash": f"{folder}/",
        "uri": folder.as_uri(),
        "parent": f"{folder}/../{folder.name}",
        "text": str(folder),
    }[way]
    with resolve(name) as target:
        assert _clean(audit_folder(target.folder)).digest == unsigned.merged.digest


@pytest.mark.parametrize(
    ("blocks", "dtype", "shard", "seed"),
    [
        (2, "F32", 9000, 1),
        (4, "BF16", 9000, 2),
        (5, "F16", 5000, 3),
        (3, "BF16", 10**9, 4),
        (8, "F32", 20000, 5),
    ],
)
def test_chains_of_other_sizes_and_types(blocks, dtype, shard, seed, small, tmp_path):
    made = build_chain(tmp_path, small, blocks=blocks, dtype=dtype, shard=shard, seed=seed)
    for one in (made.base, made.pruned, *made.tuned, made.merged, *made.data):
        assert _clean(audit_folder(one.folder)).digest == one.digest


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gemma2", "phi3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_real_families(family, dtype, tmp_path):
    import torch

    from tests.tiny import tiny_checkpoint

    model = tiny_checkpoint(tmp_path / "model", family=family, dtype=getattr(torch, dtype), head_dim=8)
    embed(model.folder, attest("load_model", describe_checkpoint(model), [HUB], parameters={}))
    assert _clean(audit_folder(model.folder)).digest == model.digest
    # What the model is loaded and used for leaves no trace in the folder.
    model.load()
    _clean(audit_folder(model.folder))


def test_two_runs_that_made_the_same_model(unsigned, tmp_path):
    copy = Checkpoint.open(copy_of(unsigned.merged.folder, tmp_path / "copy"))
    again = attest(
        "merge",
        describe_checkpoint(copy),
        [material(one, "checkpoint") for one in unsigned.tuned],
        parameters={"method": "slerp", "t": 0.5},
    )
    embed(copy.folder, again)
    result = _clean(audit_folder(copy.folder))
    assert [link.stage for link in result.chain if link.role == "result"] == ["merge", "merge"]
    assert result.statement == again.id


def test_a_model_that_regrow_made_and_somebody_took_elsewhere(unsigned, tmp_path):
    taken = Checkpoint.open(copy_of(unsigned.merged.folder, tmp_path / "taken"))
    source = HUB.model_copy(update={"uri": taken.folder.as_uri()})
    embed(taken.folder, attest("load_model", describe_checkpoint(taken), [source], parameters={}))
    result = _clean(audit_folder(taken.folder))
    assert {link.stage for link in result.chain} >= {"load_model", "merge", "tune", "prune", "distill"}
    # And a model that is made from it rests on all of that.
    (copy_of(taken.folder, tmp_path / "next") / "notes.txt").write_text("another model")
    shutil.rmtree(tmp_path / "next" / "provenance")
    made = Checkpoint.open(tmp_path / "next")
    statement = attest("fuse", describe_checkpoint(made), [material(taken, "checkpoint")], parameters={})
    embed(made.folder, statement, inherit=[taken.folder])
    assert len(_clean(audit_folder(made.folder)).chain) == len(result.chain) + 1


def test_statements_that_came_later(signed, keys, tmp_path, monkeypatch):
    monkeypatch.setenv("REGROW_SIGNING_KEY", str(keys[0]))
    copy = Checkpoint.open(copy_of(signed.merged.folder, tmp_path / "copy"))
    model = material(copy, "checkpoint")
    unknown = describe_value("policy", "12" * 32, attestation="34" * 32)
    registered = attest(
        "register", [describe_value("registration", "56" * 32)], [model], parameters={"name": "m"}
    )
    promoted = attest(
        "promote",
        [describe_value("promotion", "78" * 32)],
        [
            describe_value("registration", "56" * 32, attestation=registered.id),
            unknown,
        ],
        parameters={"to": "champion"},
    )
    embed(copy.folder, registered)
    embed(copy.folder, promoted)
    result = _clean(audit_folder(copy.folder, verifier=Verifier(key=keys[1])))
    assert [link.stage for link in result.chain if link.role == "later"].count("promote") == 1
    # A later statement may rest on what is elsewhere; that is said.
    assert any("policy" in one and "not in this folder" in one for one in result.not_checked)


def test_a_material_without_id_is_found_by_its_digest(unsigned, tmp_path):
    copy = Checkpoint.open(copy_of(unsigned.pruned.folder, tmp_path / "copy"))
    shutil.rmtree(copy.folder / "provenance")
    plain = describe_value("checkpoint", unsigned.base.digest)
    statement = attest("prune", describe_checkpoint(copy), [plain], parameters={})
    embed(copy.folder, statement, inherit=[unsigned.base.folder])
    result = _clean(audit_folder(copy.folder))
    assert [link.stage for link in result.chain] == ["prune", "load_model"]
    assert isinstance(chain(copy.folder)[0], Statement)
