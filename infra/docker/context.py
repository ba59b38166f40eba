"""What goes into an image: staged into a folder for the builder, and digested for the tag."""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.docker.images import Image, Torch
from regrow.errors import InputError
from regrow.files import canonical_digest, link_or_copy, sha256_of, write_json

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = "infra/docker/Dockerfile"
# What of the checkout is in /app. Terraform is for people's machines.
PROJECT = (
    "regrow",
    "steps",
    "pipelines",
    "materializers",
    "infra",
    "configs",
    ".zen",
    "pyproject.toml",
    "README.md",
    ":(exclude)infra/terraform",
)
# What torch's layer holds beside CUDA: no other version may go into it, so that it is the same for all images.
_TORCH = (
    "filelock",
    "fsspec",
    "jinja2",
    "markupsafe",
    "mpmath",
    "networkx",
    "setuptools",
    "sympy",
    "torch",
    "typing-extensions",
)
# Read by regrow.lineage.environment.
CODE_RECORD = ".code.json"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what is in an image.

    Attributes:
        image: which one.
        torch: build of torch.
        base: reference of the image below, or nothing: the one that the Dockerfile pins.
        index: a package index for torch beside the default one, or nothing.
        wheels: files that are preferred to the index's.
        root: the checkout.
    """

    image: Image
    torch: Torch
    base: str | None = None
    index: str | None = None
    wheels: tuple[Path, ...] = ()
    root: Path = ROOT

    @property
    def code(self) -> dict[str, Any]:
        """The commit that last changed what goes in, and whether the files differ from it.

        Not the newest commit: that one may have changed a test, and the image would be another without being one.
        """
        dirty = bool(_git(self.root, "status", "--porcelain", "--untracked-files=no", "--", *PROJECT).strip())
        return {"commit": _git(self.root, "log", "-1", "--format=%H", "--", *PROJECT).strip(), "dirty": dirty}

    @property
    def untracked(self) -> list[str]:
        """Files beside the project's that git neither tracks nor ignores: they do not go in."""
        said = _git(self.root, "ls-files", "-z", "--others", "--exclude-standard", "--", *PROJECT)
        return sorted(name for name in said.split("\0") if name)

    @property
    def arguments(self) -> dict[str, str]:
        """Build arguments."""
        found = {"TORCH": self.torch, "DEBIAN": " ".join(self.image.debian), "WHEELS": self._wheels_digest}
        if self.base:
            found["BASE"] = self.base
        if self.index:
            found["TORCH_INDEX"] = self.index
        return found

    @property
    def tag(self) -> str:
        """The first twelve digits of a digest over the Dockerfile, the versions, the code and the arguments."""
        return canonical_digest(
            {
                "dockerfile": sha256_of(self.root / DOCKERFILE),
                "arguments": self.arguments,
                "lists": self._lists(),
                "project": {name: sha256_of(self.root / name) for name in self._tracked()},
                "code": self.code,
            }
        )[:12]

    @property
    def labels(self) -> dict[str, str]:
        """The labels that the OCI image specification names."""
        code = self.code
        labels = {
            "title": self.image.repository,
            "description": self.image.title,
            "revision": code["commit"] + ("-dirty" if code["dirty"] else ""),
            "version": self.version,
            "created": _git(self.root, "log", "-1", "--format=%cI", code["commit"]).strip(),
            "base.name": self.base or _pinned_base((self.root / DOCKERFILE).read_text(encoding="utf-8")),
        }
        return {f"org.opencontainers.image.{name}": value for name, value in labels.items()}

    @property
    def version(self) -> str:
        """Version of regrow in this checkout."""
        text = (self.root / "regrow/__init__.py").read_text(encoding="utf-8")
        found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
        return found[1] if found else "0"

    def stage(self, folder: Path) -> None:
        """Lay out the build context that the Dockerfile describes in an empty folder."""
        for name, text in self._lists().items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        (folder / "wheels").mkdir()
        for wheel in self.wheels:
            link_or_copy(wheel, folder / "wheels" / wheel.name)
        for name in self._tracked():
            target = folder / "project" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.root / name, target)
        write_json(folder / "project" / CODE_RECORD, self.code)

    def _lists(self) -> dict[str, str]:
        """The lists of packages, by their place in the context."""
        project = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        extras = project["optional-dependencies"]
        ours = self.root / "infra/docker"
        own = ours / ("generate" if self.image.vllm else "lock")
        constraints = self.constraints.read_text(encoding="utf-8")
        if not self.image.vllm:
            constraints += (own / "constraints.txt").read_text(encoding="utf-8")
        torch = [line for line in constraints.splitlines() if line.partition("==")[0] in _TORCH]
        needed = [*project["dependencies"], *(one for name in self.image.extras for one in extras[name])]
        return {
            "tools/tools.txt": (ours / "lock/tools.txt").read_text(encoding="utf-8"),
            "lock/torch.txt": _lines(torch),
            "packages/project.txt": _lines(needed),
            "packages/requirements.txt": (own / "requirements.txt").read_text(encoding="utf-8"),
            "packages/constraints.txt": constraints,
            "packages/overrides.txt": (own / "overrides.txt").read_text(encoding="utf-8"),
            "beside/beside.txt": _lines([one for name in self.image.beside for one in extras[name]]),
        }

    @property
    def constraints(self) -> Path:
        """The tested set of versions of this image."""
        return (self.root / "infra/docker/generate" if self.image.vllm else self.root) / "constraints.txt"

    def _tracked(self) -> list[str]:
        listed = _git(self.root, "ls-files", "-z", "--", *PROJECT).split("\0")
        return sorted(name for name in listed if name and (self.root / name).is_file())

    @property
    def _wheels_digest(self) -> str:
        return canonical_digest({one.name: sha256_of(one) for one in self.wheels})[:12] if self.wheels else ""


def matching_wheels(folder: Path, constraints: Path, torch: Torch) -> tuple[Path, ...]:
    """Return the wheels of a folder that the tested set names, without the other build of torch.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"--wheels {folder}: no such folder")
    pins = dict(
        line.strip().lower().split("==")
        for line in constraints.read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    )
    found = []
    for wheel in sorted(folder.glob("*.whl")):
        name, version = wheel.name.lower().split("-")[:2]
        public, _, local = version.partition("+")
        is_cpu = local.startswith("cpu")
        if pins.get(name.replace("_", "-")) == public and not (
            name == "torch" and is_cpu != (torch == "cpu")
        ):
            found.append(wheel)
    return tuple(found)


def _pinned_base(dockerfile: str) -> str:
    found = re.search(r"^ARG BASE=(\S+)$", dockerfile, re.MULTILINE)
    assert found, f"{DOCKERFILE} names no base"
    return found[1]


def _lines(items: Sequence[str]) -> str:
    return "".join(f"{one}\n" for one in items)


def _git(root: Path, *arguments: str) -> str:
    """Run git in the checkout.

    Raises:
        InputError: there is no git, or this is no checkout.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise InputError("git is not on this machine; it says which files go into an image") from None
    if done.returncode:
        raise InputError(f"{root}: images are built from a git checkout ({done.stderr.strip()})")
    return done.stdout
