"""Kubernetes' server programs, compiled from Debian's source package, because no package index brings them built."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from infra.cluster import machine
from regrow.errors import InputError, RegrowError
from regrow.files import atomic_folder, cache_dir, read_json, sha256_of, write_json

VERSION = "1.20.2"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
# Debian's archive keeps this one source package for its stable release; the whole upstream tree with what it imports.
_TARBALL = "kubernetes_1.20.5+really1.20.2.orig.tar.gz"
_SHA256 = "b83c0780efb182d928dc63d46488a847f161f04e40a94b96bf5247dd671ecdfc"
_GO = Path("/usr/lib/go-1.19/bin")
_GIBIBYTES = 6


def cache() -> Path:
    """Return the folder of the sources and the finished programs (`REGROW_CLUSTER_CACHE` names another)."""
    named = os.environ.get("REGROW_CLUSTER_CACHE")
    return Path(named).absolute() if named else cache_dir().absolute() / "kubernetes"


def _target() -> Path:
    return cache() / f"v{VERSION}"


def programs() -> Path:
    """Return the folder of the finished programs.

    Raises:
        InputError: they were never built here, or are not what was built.
    """
    folder = _target()
    if not folder.is_dir():
        raise InputError(
            f"{folder}: Kubernetes is not built yet; python -m infra.cluster build (5 to 10 minutes, once)"
        )
    for name, size in read_json(folder / "built.json")["bytes"].items():
        found = folder / name
        if not found.is_file() or found.stat().st_size != size:
            raise InputError(f"{found}: not what was built; remove {folder} and build again")
    return folder


def build(say: Callable[[str], None]) -> Path:
    """Compile the programs unless they are there, and return their folder.

    A build that was stopped goes on where it was: the archive is kept once its digest is right, and Go keeps what it
    has compiled.

    Args:
        say: is told what happens.

    Raises:
        InputError: Debian packages are missing, or there is too little room.
        RegrowError: the download or the compiler failed; the log is named.
    """
    target = _target()
    if target.is_dir():
        return programs()
    machine.need_packages(machine.BUILD)
    work = cache() / "work"
    work.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(work).free / 2**30
    if free < _GIBIBYTES:
        raise InputError(
            f"{work}: {free:.1f} GiB free; building takes {_GIBIBYTES} GiB (REGROW_CLUSTER_CACHE names another place)"
        )
    with machine.alone(cache() / "lock", "another build is at work there"):
        tree = _unpacked(work, _source(work, say), say)
        say(f"compiling Kubernetes {VERSION} (5 to 10 minutes); log {work / 'build.log'}")
        made = _compile(work, tree)
        with atomic_folder(target) as scratch:
            for name in PROGRAMS:
                shutil.copy2(made / name, scratch / name)
            _pause(work, tree, scratch / "pause")
            names = (*PROGRAMS, "pause")
            write_json(
                scratch / "built.json",
                {
                    "source": {"file": _TARBALL, "sha256": _SHA256},
                    "compiler": _run(work, [str(_GO / "go"), "version"]).strip(),
                    "sha256": {name: sha256_of(scratch / name) for name in names},
                    "bytes": {name: (scratch / name).stat().st_size for name in names},
                },
            )
    shutil.rmtree(work)
    return programs()


def _source(work: Path, say: Callable[[str], None]) -> Path:
    archive = work / "src" / _TARBALL
    if not archive.is_file():
        say(f"fetching Debian's source package kubernetes to {archive.parent}")
        scratch = work / "fetch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        # Lists of its own, so that the machine's sources stay as they are; the machine's keys and mirrors are used.
        (scratch / "lists").mkdir()
        (scratch / "sources").mkdir()
        (scratch / "sources" / "source.sources").write_text(_deb_src(), encoding="utf-8")
        options = [
            "-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={scratch / 'sources'}",
            "-o", f"Dir::State::lists={scratch / 'lists'}", "-o", "APT::Sandbox::User=root",
        ]  # fmt: skip
        _run(work, ["apt-get", *options, "update"], cwd=scratch)
        _run(
            work,
            ["apt-get", *options, "source", "--download-only", "--only-source", "kubernetes"],
            cwd=scratch,
        )
        found = scratch / _TARBALL
        if not found.is_file():
            raise RegrowError(
                f"Debian's archive no longer has {_TARBALL} but {sorted(one.name for one in scratch.glob('*.gz'))}; "
                f"put that file into {archive.parent} by hand (snapshot archives of Debian keep it)"
            )
        archive.parent.mkdir(exist_ok=True)
        found.replace(archive)
        shutil.rmtree(scratch)
    if (digest := sha256_of(archive)) != _SHA256:
        raise InputError(f"{archive}: SHA-256 {digest}, expected {_SHA256}; remove it and build again")
    return archive


def _deb_src() -> str:
    """Return the machine's binary sources as source sources, in the format of *.sources files."""
    parts = Path("/etc/apt/sources.list.d")
    texts = [one.read_text(encoding="utf-8") for one in sorted(parts.glob("*.sources"))]
    found = [text for text in texts if "debian" in text]
    if found:
        return "\n\n".join(re.sub(r"^Types:.*$", "Types: deb-src", text, flags=re.M) for text in found)
    lists = [Path("/etc/apt/sources.list"), *sorted(parts.glob("*.list"))]
    lines = [line.split() for one in lists if one.is_file() for line in one.read_text().splitlines()]
    blocks = []
    for words in lines:
        plain = [word for word in words if not word.startswith("[") and not word.endswith("]")]
        if plain[:1] == ["deb"] and len(plain) >= 4:
            blocks.append(
                f"Types: deb-src\nURIs: {plain[1]}\nSuites: {plain[2]}\nComponents: {' '.join(plain[3:])}\n"
            )
    if not blocks:
        raise InputError("/etc/apt: no package sources; this machine must be a Debian to build Kubernetes")
    return "\n".join(blocks)


def _unpacked(work: Path, archive: Path, say: Callable[[str], None]) -> Path:
    tree = work / "src" / f"kubernetes-{VERSION}"
    whole = work / "src" / "unpacked"
    if not (tree.is_dir() and whole.exists()):
        say(f"unpacking {archive.name}")
        shutil.rmtree(tree, ignore_errors=True)
        _run(work, ["tar", "xzf", archive.name], cwd=archive.parent)
        whole.touch()
    return tree


def _compile(work: Path, tree: Path) -> Path:
    version = work / "version"
    version.write_text(
        "KUBE_GIT_COMMIT=''\nKUBE_GIT_TREE_STATE='archive'\n"
        f"KUBE_GIT_VERSION='v{VERSION}'\nKUBE_GIT_MAJOR='1'\nKUBE_GIT_MINOR='20'\n"
    )
    package = tree / ".go" / "src" / "k8s.io" / "kubernetes"
    package.parent.mkdir(parents=True, exist_ok=True)
    if not package.is_symlink():
        package.symlink_to("../../..")
    (work / "home").mkdir(exist_ok=True)
    environment = {
        "PATH": f"{_GO}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(work / "home"),
        "GOPATH": str(tree / ".go"),
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
        "KUBE_GIT_VERSION_FILE": str(version),
        # What would be the time of the build becomes that of the source, so that two builds are the same.
        "SOURCE_DATE_EPOCH": "1610521200",
        "PWD": str(package),
    }
    _run(
        work, ["make", "WHAT=" + " ".join(f"cmd/{name}" for name in PROGRAMS)], cwd=package, environment=environment
    )  # fmt: skip
    machine_name = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    return tree / "_output" / "local" / "bin" / "linux" / machine_name


def _pause(work: Path, tree: Path, out: Path) -> None:
    source = tree / "build" / "pause" / "linux" / "pause.c"
    _run(work, ["gcc", "-Os", "-static", "-DVERSION=3.2", "-Wl,--build-id=none", "-o", str(out), str(source)])


def _run(
    work: Path, command: list[str], *, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> str:
    log = work / "build.log"
    with log.open("ab") as out:  # as it comes, for whoever looks on
        out.write(f"$ {json.dumps(command)}\n".encode())
        out.flush()
        begin = out.tell()
        done = subprocess.run(
            command, cwd=cwd or work, env=environment, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    said = log.read_bytes()[begin:].decode(errors="replace")
    if done.returncode != 0:
        last = "\n".join(said.splitlines()[-15:])
        raise RegrowError(f"{command[0]} failed ({done.returncode}); {log} ends:\n{last}")
    return said
