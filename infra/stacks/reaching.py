"""What a configuration names on this machine, which pods cannot reach."""

from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlparse

from pydantic import BaseModel

from regrow.errors import InputError
from regrow.source import parse

_SOURCES = ("source", "fewshot_source")
_HERE = ("localhost", "127.0.0.1", "::1")


def demand_reachable(config: BaseModel, stack: str, cache: str | None) -> None:
    """Raise where pods could not read what a configuration names.

    Args:
        config: a pipeline's parameters.
        stack: name of the stack.
        cache: folder that is mounted into its pods; a file there is fine if its SHA-256 stands beside it.

    Raises:
        InputError: names every such field.
    """
    found = list(_unreachable(config.model_dump(mode="json"), cache, "parameters"))
    if found:
        raise InputError(
            f"--stack {stack} runs in pods, which do not see this machine: {'; '.join(found)}. Name a hub:, pypi: or "
            "mlflow: source" + (f", or a file below {cache} of the pods with its sha256" if cache else "")
        )


def _unreachable(value: Any, cache: str | None, where: str) -> Iterator[str]:
    if isinstance(value, list):
        for number, one in enumerate(value):
            name = one.get("name", number) if isinstance(one, dict) else number
            yield from _unreachable(one, cache, f"{where}.{name}")
        return
    if not isinstance(value, dict):
        return
    for key, one in value.items():
        if key in _SOURCES and isinstance(one, str) and parse(one).kind == "local":
            digest = value.get("sha256" if key == "source" else "fewshot_sha256")
            if not (cache and digest and PurePosixPath(cache) in PurePosixPath(one).parents):
                yield f"{where}.{key} {one} is a path"
        elif key == "url" and isinstance(one, str) and urlparse(one).hostname in _HERE:
            yield f"{where}.{key} {one} is a server of this machine"
        else:
            yield from _unreachable(one, cache, f"{where}.{key}")
