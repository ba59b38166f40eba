"""What can be said without starting anything: missing packages, a build that is not whole, folders, messages."""

import json
from pathlib import Path

import pytest

from infra.cluster import __main__ as command_line
from infra.cluster import build, device_plugin, machine
from infra.cluster.cluster import Cluster
from regrow.errors import InputError


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of built programs."""
    monkeypatch.setenv("REGROW_CLUSTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def built(folder: Path) -> None:
    folder.mkdir(parents=True)
    names = (*build.PROGRAMS, "pause")
    for name in names:
        (folder / name).write_bytes(name.encode())
    (folder / "built.json").write_text(json.dumps({"bytes": {name: len(name) for name in names}}))


def test_missing_packages_are_named_with_the_one_command_that_installs_them(monkeypatch):
    monkeypatch.setattr(machine, "_PLACES", "/nowhere")
    with pytest.raises(InputError) as raised:
        machine.need_packages({"no-such-program": "one", "/no/such/file.h": "another", "/bin/sh": "dash"})
    assert str(raised.value) == (
        "Debian packages are missing: another, one. Install them with\n"
        "  apt-get install --no-install-recommends another one"
    )


def test_what_was_never_built_says_how(cache):
    with pytest.raises(InputError, match=r"not built yet; python -m infra\.cluster build"):
        build.programs()


def test_programs_that_were_cut_short_are_not_used(cache):
    folder = cache / f"v{build.VERSION}"
    built(folder)
    assert build.programs() == folder
    (folder / "kubelet").write_bytes(b"kube")
    with pytest.raises(InputError, match=r"kubelet: not what was built; remove .* and build again"):
        build.programs()


def test_a_built_version_is_not_built_again(cache, capsys):
    built(cache / f"v{build.VERSION}")
    assert command_line.main(["build"]) == 0
    assert str(cache / f"v{build.VERSION}") in capsys.readouterr().out
    assert not (cache / "work").exists()


def test_an_archive_with_another_digest_is_not_unpacked(cache, monkeypatch):
    archive = cache / "work" / "src" / build._TARBALL
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"not Kubernetes")
    monkeypatch.setattr(machine, "BUILD", {})
    monkeypatch.setattr(build, "_GIBIBYTES", 0)
    with pytest.raises(InputError, match=r"SHA-256 [0-9a-f]{64}, expected b83c0780"):
        build.build(lambda _text: None)
    assert not (cache / f"v{build.VERSION}").exists()


def test_a_second_build_waits_for_the_first(cache, monkeypatch):
    monkeypatch.setattr(machine, "BUILD", {})
    monkeypatch.setattr(build, "_GIBIBYTES", 0)
    with machine.alone(cache / "lock", "first"), pytest.raises(InputError, match="another build is at work"):
        build.build(lambda _text: None)


def test_commands_before_any_up_say_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("infra.cluster.cluster._LONGEST", 200)
    folder = ["--folder", str(tmp_path / "none")]
    for action in ("env", "values"):
        assert command_line.main([action, *folder]) == 2
        assert "no cluster was ever up there" in capsys.readouterr().err
    assert command_line.main(["status", *folder]) == 1
    assert command_line.main(["down", *folder]) == 0
    assert "no cluster there" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_a_folder_whose_sockets_would_have_too_long_a_path_is_refused(tmp_path):
    with pytest.raises(InputError, match="longer than 60 characters"):
        Cluster(tmp_path / ("long" * 20))


def test_the_plugins_messages_are_those_of_the_protocol():
    """By the protocol's own rules, byte by byte: field 1 of kind 2 (a text or a message), its length, its content."""
    plugin = device_plugin.GpuPlugin(2)
    asked = plugin.messages["AllocateRequest"].FromString(b"\x0a\x07\x0a\x05gpu-1")
    assert list(asked.container_requests[0].devicesIDs) == ["gpu-1"]
    answer = plugin._allocate(asked).SerializeToString()
    entry = b"\x0a\x16NVIDIA_VISIBLE_DEVICES\x12\x05gpu-1"
    inner = b"\x0a" + bytes([len(entry)]) + entry
    assert answer == b"\x0a" + bytes([len(inner)]) + inner
    request = plugin.messages["RegisterRequest"](version="v1beta1", endpoint="a", resource_name="b")
    assert request.SerializeToString() == b"\x0a\x07v1beta1\x12\x01a\x1a\x01b"
