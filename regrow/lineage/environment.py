"""What built a result: the code's commit, the packages, the container image."""

import os
import platform
import subprocess
from functools import lru_cache
from importlib.metadata import Distribution, PackageNotFoundError, distributions, version
from pathlib import Path

from regrow import __version__
from regrow.files import canonical_digest, read_json
from regrow.lineage.statement import BUILDER, Builder, Resource

_NAMED = ("torch", "transformers", "peft", "trl", "vllm", "safetensors", "tokenizers", "mlflow", "zenml")
_SOURCE = Path(__file__).resolve().parents[2]
# Beside the source in an image, which has no repository: infra/docker writes it.
_RECORD = ".code.json"


def builder() -> Builder:
    """Describe this process: versions, commit and dirty flag, image and package lock."""
    return Builder(id=BUILDER, version=dict(_versions()), builder_dependencies=[*_code(), *_image(), _lock()])


def lock_digest() -> str:
    """Return the SHA-256 over all installed distributions, as sorted `name==version`."""
    return _installed()[0]


@lru_cache(maxsize=1)
def _installed() -> tuple[str, int]:
    found = {
        f"{name.lower().replace('_', '-')}=={version}"
        for one in distributions()
        for name, version in [_named(one)]
        if name
    }
    return canonical_digest(sorted(found)), len(found)


def _named(one: Distribution) -> tuple[str, str]:
    """Return name and version, from the head of the metadata: parsing all of it takes a third of a second for 250."""
    text = one.read_text("METADATA") or one.read_text("PKG-INFO") or ""
    lines = [line.split(": ", 1) for line in text.split("\n\n", 1)[0].splitlines() if ": " in line]
    head = dict(reversed(lines))  # the first counts: what a licence's text may say comes later
    return head.get("Name", "").strip(), head.get("Version", "").strip()


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    found = {"regrow": __version__, "python": platform.python_version()}
    for name in _NAMED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _lock() -> Resource:
    digest, count = _installed()
    return Resource(name="packages", digest={"sha256": digest}, annotations={"distributions": count})


def _image() -> list[Resource]:
    """The container image, as whoever started it says: its digest, or a reference (REGROW_IMAGE) that has one."""
    named = os.environ.get("REGROW_IMAGE_DIGEST", "").strip()
    if not named:
        _, _, named = os.environ.get("REGROW_IMAGE", "").strip().partition("@")
    if not named:
        return []  # a tag may mean another image tomorrow
    algorithm, _, digest = named.rpartition(":")
    return [Resource(name="image", digest={algorithm.rpartition("@")[2] or "sha256": digest})]


def _code() -> list[Resource]:
    """The commit of regrow's own source: the repository it runs from, or what an image says of itself."""
    if commit := os.environ.get("REGROW_COMMIT", "").strip():
        return [Resource(name="code", digest={"gitCommit": commit})]
    if (_SOURCE / _RECORD).is_file():
        said = read_json(_SOURCE / _RECORD)
        return [
            Resource(name="code", digest={"gitCommit": said["commit"]}, annotations={"dirty": said["dirty"]})
        ]
    return list(_repository())


@lru_cache(maxsize=1)
def _repository() -> tuple[Resource, ...]:
    """The commit of the code that this process has loaded: looked up once, as it does not change with the files."""
    if _git("ls-files", "--error-unmatch", "regrow/__init__.py") is None:
        return ()  # installed as a package: the version says which code it is
    commit = (_git("rev-parse", "HEAD") or "").strip()
    if not commit:
        return ()
    dirty = bool((_git("status", "--porcelain", "--untracked-files=no") or "").strip())
    return (Resource(name="code", digest={"gitCommit": commit}, annotations={"dirty": dirty}),)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(_SOURCE), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
