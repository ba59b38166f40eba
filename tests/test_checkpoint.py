import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from regrow.checkpoint import Checkpoint, copy_small_files, manifest
from regrow.errors import InputError
from regrow.files import atomic_folder
from regrow.tensors import ShardWriter, index


def test_every_byte_counts_in_the_digest(tiny, tmp_path):
    for name in sorted(path.name for path in tiny.folder.iterdir()):
        copy = tmp_path / "copy"
        shutil.copytree(tiny.folder, copy)
        assert Checkpoint.open(copy).digest == tiny.digest
        data = bytearray((copy / name).read_bytes())
        # The last byte but one: inside a tensor, or a character that keeps JSON readable.
        data[-2:-2] = b" " if name != "model.safetensors" else b""
        if name == "model.safetensors":
            data[-2] ^= 1
        (copy / name).write_bytes(bytes(data))
        assert Checkpoint.open(copy).digest != tiny.digest, name
        shutil.rmtree(copy)


def test_an_added_file_changes_the_digest(tiny):
    (tiny.folder / "notes.txt").write_text("x")
    assert Checkpoint.open(tiny.folder).digest != tiny.digest


def test_parameters_count_tied_embeddings_once(tiny):
    assert tiny.parameters == sum(p.numel() for p in tiny.load().parameters())


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no such folder"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
            "pickled weights",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "not a model folder"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "not a safetensors file"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(
                (folder / "model.safetensors").read_bytes()[:-100]
            ),
            "truncated",
        ),
    ],
)
def test_a_broken_folder_is_named(tiny, break_it, message):
    break_it(tiny.folder)
    with pytest.raises(InputError, match=message) as caught:
        Checkpoint.open(tiny.folder)
    assert str(tiny.folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_tokenizer_and_template_are_named(tiny):
    (tiny.folder / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="chat_template"):
        tiny.chat_tokenizer()
    (tiny.folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="no tokenizer"):
        tiny.tokenizer()


def test_an_unknown_architecture_is_named(tiny):
    config = json.loads((tiny.folder / "config.json").read_text())
    (tiny.folder / "config.json").write_text(json.dumps(config | {"model_type": "nonesuch"}))
    with pytest.raises(InputError, match="cannot be loaded"):
        tiny.load()


def test_a_copy_is_the_same_model(tiny, tmp_path):
    copy = tiny.copy_to(tmp_path / "copy")
    assert Checkpoint.open(copy.folder).digest == tiny.digest


def test_provenance_is_about_the_model_and_not_part_of_it(tiny, tmp_path):
    (tiny.folder / "provenance").mkdir()
    (tiny.folder / "provenance" / "prune-0123456789abcdef.json").write_text("{}")
    assert Checkpoint.open(tiny.folder).digest == tiny.digest
    assert not any("provenance" in name for name in manifest(tiny.folder))
    assert tiny.summary()["bytes"] == sum(p.stat().st_size for p in tiny.folder.iterdir() if p.is_file())
    # A copy is the same model and keeps its statements; a model made from it is another and does not.
    copy = tiny.copy_to(tmp_path / "copy")
    assert (copy.folder / "provenance" / "prune-0123456789abcdef.json").read_text() == "{}"
    copy_small_files(tiny.folder, tmp_path / "other")
    assert (tmp_path / "other" / "config.json").exists()
    assert not (tmp_path / "other" / "provenance").exists()


def test_only_the_folder_at_the_top_is_provenance(tiny):
    digests = {tiny.digest}
    (tiny.folder / "sub" / "provenance").mkdir(parents=True)
    (tiny.folder / "sub" / "provenance" / "x.json").write_text("{}")
    digests.add(Checkpoint.open(tiny.folder).digest)
    (tiny.folder / "provenance").write_text("a file of that name")
    digests.add(Checkpoint.open(tiny.folder).digest)
    assert len(digests) == 3


def test_a_writer_hashes_what_it_writes_as_files_and_tensor_by_tensor(tmp_path):
    from regrow.files import sha256_of
    from regrow.lineage.describe import tensor_digests

    wanted = {f"t{i}": torch.randn(50, i + 1) for i in range(5)}
    layout = {name: ("F32", tuple(tensor.shape)) for name, tensor in wanted.items()}
    with ShardWriter(tmp_path, layout, max_shard_bytes=1500) as writer:
        for name, tensor in wanted.items():
            writer.put(name, tensor)
    files = {file.name: file for file in tmp_path.glob("*.safetensors")}
    assert len(files) > 1
    assert writer.digests == {name: sha256_of(file) for name, file in files.items()}
    assert writer.tensor_digests == {name: tensor_digests(file) for name, file in files.items()}
    assert len({one for part in writer.tensor_digests.values() for one in part.values()}) == 5


def test_shards_round_trip(tmp_path):
    wanted = {f"t{i}": torch.randn(7, i + 1).to(torch.bfloat16) for i in range(9)}
    with ShardWriter(
        tmp_path, {k: ("BF16", tuple(v.shape)) for k, v in wanted.items()}, max_shard_bytes=200
    ) as writer:
        for name, tensor in wanted.items():
            writer.put(name, tensor)
    found = index(tmp_path)
    assert len({info.file for info in found.values()}) > 1
    for name, tensor in wanted.items():
        assert torch.equal(load_file(found[name].file)[name], tensor)


def test_a_writer_that_stops_early_says_so(tmp_path):
    with pytest.raises(ValueError, match="never written"), ShardWriter(tmp_path, {"a": ("F32", (1,))}):
        pass


def test_an_interrupted_folder_never_appears(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "out") as scratch:
        (scratch / "half").write_text("x")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="already exists"), atomic_folder(tmp_path / "out"):
        pass
