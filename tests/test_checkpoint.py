import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from regrow.checkpoint import Checkpoint
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
