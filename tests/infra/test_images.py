"""Images: what decides their tag, what goes in, and what the command refuses."""

import os
import re
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from infra.docker import registry
from infra.docker.__main__ import main
from infra.docker.context import DOCKERFILE, PROJECT, ROOT, Recipe, matching_wheels
from infra.docker.images import IMAGES, chosen
from infra.docker.inventory import inventory
from infra.docker.sbom import bill_of_materials
from regrow.errors import InputError, RegrowError
from regrow.files import read_json


def _git(root, *arguments):
    who = ["-c", "user.name=t", "-c", "user.email=t@t.invalid"]
    done = subprocess.run(
        ["git", "-C", root, *who, *arguments], check=True, capture_output=True, text=True, env=_clean()
    )
    return done.stdout.strip()


def _clean():
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


@pytest.fixture
def checkout(tmp_path):
    """A repository of its own with the files that go into images, all committed."""
    root = tmp_path / "checkout"
    wanted = [
        "Makefile",
        "constraints.txt",
        "infra/docker",
        "regrow/__init__.py",
        "regrow/errors.py",
        ".zen/.gitignore",
    ]
    for name in (*wanted, "pyproject.toml", "README.md", "infra/__init__.py", "infra/terraform/variables.tf"):
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    _git(tmp_path, "init", "-q", str(root))
    _git(root, "add", "-A")
    _git(root, "commit", "-q", "-m", "one")
    return root


def _recipe(root, name="base", **changes):
    return Recipe(IMAGES[name], IMAGES[name].torch(None), root=root, **changes)


def _append(path, text="\n# changed\n"):
    path.write_text(path.read_text() + text)


def test_the_tag_is_the_same_for_the_same_content(checkout):
    assert _recipe(checkout).tag == _recipe(checkout).tag
    assert re.fullmatch("[0-9a-f]{12}", _recipe(checkout).tag)


@pytest.mark.parametrize(
    "changed",
    [
        "regrow/errors.py",
        "constraints.txt",
        "infra/docker/Dockerfile",
        "infra/docker/lock/requirements.txt",
        ".zen/.gitignore",
    ],
)
def test_the_tag_changes_with_what_goes_in(checkout, changed):
    before = _recipe(checkout).tag
    _append(checkout / changed)
    assert _recipe(checkout).tag != before


def test_the_tag_stays_when_something_else_changes(checkout):
    before = _recipe(checkout).tag
    _append(checkout / "Makefile")
    _append(checkout / "infra/terraform/variables.tf")
    (checkout / "regrow/notes.txt").write_text("not tracked")
    _git(checkout, "commit", "-q", "-am", "something else")
    assert _recipe(checkout).tag == before


def test_the_tag_says_the_arguments(checkout, tmp_path):
    wheel = tmp_path / "one-1.0-py3-none-any.whl"
    wheel.write_bytes(b"1")
    tags = {
        _recipe(checkout).tag,
        _recipe(checkout, base="localhost/other:1").tag,
        _recipe(checkout, index="https://example.invalid/simple").tag,
        _recipe(checkout, wheels=(wheel,)).tag,
        *(_recipe(checkout, name).tag for name in ("evaluate", "tune", "generate")),
    }
    assert len(tags) == 7
    before = _recipe(checkout, wheels=(wheel,)).tag
    wheel.write_bytes(b"2")
    assert _recipe(checkout, wheels=(wheel,)).tag != before


def test_a_commit_of_the_same_files_is_another_image_only_if_they_were_dirty(checkout):
    first = _git(checkout, "rev-parse", "HEAD")
    assert _recipe(checkout).code == {"commit": first, "dirty": False}
    _append(checkout / "regrow/errors.py")
    assert _recipe(checkout).code == {"commit": first, "dirty": True}
    assert _recipe(checkout).labels["org.opencontainers.image.revision"] == f"{first}-dirty"
    _git(checkout, "commit", "-q", "-am", "two")
    second = _git(checkout, "rev-parse", "HEAD")
    _append(checkout / "Makefile")
    _git(checkout, "commit", "-q", "-am", "three")
    assert _recipe(checkout).code == {"commit": second, "dirty": False}


def test_the_context_has_what_git_tracks_and_nothing_else(checkout, tmp_path):
    (checkout / "regrow/secret.pem").write_text("not tracked")
    (checkout / ".zen/config.yaml").write_text("active_stack_id: x")
    assert _recipe(checkout).untracked == ["regrow/secret.pem"]
    _recipe(checkout, "tune").stage(tmp_path / "context")
    project = tmp_path / "context/project"
    names = {str(one.relative_to(project)) for one in project.rglob("*") if one.is_file()}
    tracked = set(_git(checkout, "ls-files", "--", *PROJECT).splitlines())
    assert names == tracked | {".code.json"} and "infra/terraform/variables.tf" not in names
    assert read_json(project / ".code.json")["commit"] == _git(checkout, "rev-parse", "HEAD")
    assert "bitsandbytes" in (tmp_path / "context/beside/beside.txt").read_text()
    assert "zenml[local,server]" in (tmp_path / "context/packages/project.txt").read_text()


def test_torchs_layer_is_the_same_for_all_images(checkout, tmp_path):
    """Or a node would download CUDA once for each image."""
    for name in IMAGES:
        _recipe(checkout, name).stage(tmp_path / name)
    assert len({(tmp_path / name / "lock/torch.txt").read_text() for name in IMAGES}) == 1
    assert len({(tmp_path / name / "tools/tools.txt").read_text() for name in IMAGES}) == 1
    lines = (tmp_path / "base/lock/torch.txt").read_text().splitlines()
    assert any(one.startswith("torch==") for one in lines) and len(lines) == 10


def test_the_versions_of_generate_are_the_tested_ones_wherever_vllm_lets_them():
    ours = _pins(ROOT / "constraints.txt")
    theirs = _pins(ROOT / "infra/docker/generate/constraints.txt")
    differ = {name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]}
    assert differ == {"fastapi", "numpy", "opentelemetry-proto", "transformers"}
    assert theirs["transformers"] == _pins(ROOT / "infra/docker/generate/overrides.txt")["transformers"]


def _pins(path):
    lines = (line.strip() for line in path.read_text().splitlines() if not line.startswith("#"))
    return dict(line.split("==") for line in lines if "==" in line)


def test_wheels_of_the_tested_versions_are_taken_and_the_other_torch_is_not(tmp_path):
    (tmp_path / "constraints.txt").write_text("# torch==1\ntorch==2.13.0\nmy-package==1.0\n")
    for name in (
        "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl",
        "torch-2.12.0+cpu-cp311-cp311-linux_x86_64.whl",
        "torch-2.13.0+cu130-cp311-cp311-linux_x86_64.whl",
        "my_package-1.0-py3-none-any.whl",
        "other-1.0-py3-none-any.whl",
    ):
        (tmp_path / name).touch()

    def names(torch):
        return [
            one.name.split("-cp311")[0]
            for one in matching_wheels(tmp_path, tmp_path / "constraints.txt", torch)
        ]

    assert names("cpu") == ["my_package-1.0-py3-none-any.whl", "torch-2.13.0+cpu"]
    assert names("cuda") == ["my_package-1.0-py3-none-any.whl", "torch-2.13.0+cu130"]
    with pytest.raises(InputError, match="no such folder"):
        matching_wheels(tmp_path / "none", tmp_path / "constraints.txt", "cpu")


def test_the_dockerfile_keeps_the_rules():
    text = (ROOT / DOCKERFILE).read_text()
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    steps = [line.split(None, 1) for line in lines]
    assert re.search(r"^ARG BASE=\S+:\S+@sha256:[0-9a-f]{64}$", text, re.MULTILINE), (
        "the base is pinned by digest"
    )
    stages = {line.split()[-1] for line in lines if " AS " in line}
    for what, rest in steps:
        if what == "FROM":
            assert rest.split()[0] in stages | {"${BASE}"}, f"{rest}: another base than the pinned one"
        assert what != "ENTRYPOINT", "ZenML and the manifests say the whole command"
        assert what != "ADD", "nothing is fetched that no digest names"
    assert [rest for what, rest in steps if what == "USER"] == ["1000:1000"]
    last = [what for what, _ in steps]
    assert "RUN" not in last[last.index("USER") :] and "COPY" not in last[last.index("USER") :]
    code = next(number for number, (what, rest) in enumerate(steps) if what == "COPY" and "project/" in rest)
    assert not any("uv pip install --cache-dir" in rest for _, rest in steps[code:]), "code comes last"
    for _, rest in steps:
        if "apt-get install" in rest and "AS tools" not in rest and "/tools/tools.txt" not in rest:
            assert "rm -rf /var/lib/apt/lists" in rest and "--no-install-recommends" in rest
    assert not re.search(r"(ENV|ARG) \S*(PASSWORD|TOKEN|SECRET|KEY)", text)


def test_names_of_images():
    assert [one.name for one in chosen([])] == [one.name for one in chosen(["all"])] == list(IMAGES)
    assert [one.repository for one in chosen(["tune", "tune"])] == ["regrow-tune"]
    with pytest.raises(InputError, match="trainer: no such image; there are base, evaluate, tune, generate"):
        chosen(["trainer"])


def _command(capsys, *arguments):
    status = main(arguments)
    return status, capsys.readouterr().err


def test_terraforms_repositories_are_those_that_are_pushed_to():
    # ECR makes no repository by itself: under other names every push would fail.
    text = (ROOT / "infra/terraform/variables.tf").read_text()
    default = re.search(r'^variable "images" {.*?^  default += \[(.*?)\]', text, re.M | re.S)
    pushed = {image.repository for image in IMAGES.values()}
    assert set(re.findall(r'"([^"]+)"', default[1])) == pushed
    page = (ROOT / "docs/kubernetes.md").read_text()
    named = re.findall(r"newName: \S+amazonaws\.com/regrow/(\S+)", page)
    assert named
    assert set(named) <= pushed


def test_without_a_builder_it_says_what_to_install(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    status, said = _command(capsys, "build", "base")
    assert status == 2 and "apt-get install buildah" in said
    status, said = _command(capsys, "build", "base", "--builder", "podman")
    assert status == 2 and "podman is not on this machine" in said


@pytest.fixture
def builder(tmp_path, monkeypatch):
    """A builder that is found and is never asked anything: what is tested here fails before."""
    program = tmp_path / "bin" / "buildah"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 99\n")
    program.chmod(0o755)
    (program.parent / "git").symlink_to(shutil.which("git"))
    monkeypatch.setenv("PATH", str(program.parent))
    return program


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["base", "--push"], "--push needs --registry HOST:PORT"),
        (["base", "--registry", "http://127.0.0.1:5000"], "without a scheme"),
        (["base", "--ca", "/nowhere/ca.crt"], "--ca /nowhere/ca.crt: no such file"),
        (["base", "--wheels", "/nowhere"], "--wheels /nowhere: no such folder"),
        (
            ["generate", "--torch", "cpu", "--torch-index", "https://example.invalid"],
            "this image is for GPUs",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_plain_words(capsys, builder, arguments, message):
    status, said = _command(capsys, "build", *arguments)
    assert status == 2 and message in said and said.count("\n") == 1


def test_a_build_for_cpus_needs_a_build_of_torch(capsys, builder, tmp_path):
    (tmp_path / "wheels").mkdir()
    status, said = _command(capsys, "build", "base", "--wheels", str(tmp_path / "wheels"))
    assert status == 2 and "--torch-index" in said


def test_rootfs_needs_mmdebstrap(capsys, builder):
    if Path("/usr/sbin/mmdebstrap").exists():
        pytest.skip("mmdebstrap lies where it is always found")
    status, said = _command(capsys, "rootfs")
    assert status == 2 and "apt-get install mmdebstrap" in said


def test_a_failed_build_is_one_line_after_what_the_builder_said(capsys, builder, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / f"torch-{_pins(ROOT / 'constraints.txt')['torch']}+cpu-cp311-cp311-linux_x86_64.whl").touch()
    out = tmp_path / "images.json"
    status, said = _command(capsys, "build", "base", "--wheels", str(wheels), "--out", str(out))
    assert status == 1
    assert said.splitlines()[-1] == "buildah build ended with exit status 99; what it said is above"
    assert not out.exists()


class _Registry(BaseHTTPRequestHandler):
    """Just the one question that is asked, with what a real registry answers."""

    def do_HEAD(self):
        known = self.path == "/v2/regrow-base/manifests/0123456789ab"
        self.send_response(200 if known else 503 if "broken" in self.path else 404)
        if known:
            self.send_header("Docker-Content-Digest", "sha256:" + "ab" * 32)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_registry_is_asked_by_tag():
    server = HTTPServer(("127.0.0.1", 0), _Registry)
    Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.server_port}"
    try:
        assert registry.digest_of(f"{host}/regrow-base:0123456789ab", insecure=True) == "sha256:" + "ab" * 32
        assert registry.digest_of(f"{host}/regrow-base:other", insecure=True) is None
        with pytest.raises(RegrowError, match="answers 503"):
            registry.digest_of(f"{host}/broken:1", insecure=True)
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(RegrowError, match="does not answer"):
        registry.digest_of(f"{host}/regrow-base:other", insecure=True)


def test_registries_conf_says_who_speaks_plain_http(tmp_path, monkeypatch):
    path = tmp_path / "registries.conf"
    path.write_text('[[registry]]\nlocation = "10.0.0.1:5000"\ninsecure = true\n')
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(path))
    assert registry.is_insecure("10.0.0.1:5000/folder") and not registry.is_insecure("10.0.0.2:5000")


def test_the_bill_lists_what_is_installed():
    found = inventory()  # of this machine: real packages, real distributions
    bill = bill_of_materials("regrow-base", "localhost/regrow-base:0123456789ab", found)
    assert bill["metadata"]["component"] == {
        "bom-ref": "localhost/regrow-base:0123456789ab",
        "name": "regrow-base",
        "type": "container",
        "version": "0123456789ab",
    }
    purls = {one["purl"] for one in bill["components"] if "purl" in one}
    torch = next(one for one in found["distributions"] if one["name"] == "torch")
    assert any(one.startswith("pkg:pypi/torch@") and torch["version"].split("+")[0] in one for one in purls)
    assert len(purls) == len(found["debian"]) + len(found["distributions"])
