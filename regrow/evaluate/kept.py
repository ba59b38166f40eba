"""Finished results in a cache: each under everything that it depends on."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from regrow.checkpoint import Checkpoint
from regrow.files import canonical_digest, read_json, write_json

_Result = TypeVar("_Result", bound=BaseModel)


def place(cache: Path | None, checkpoint: Checkpoint, kind: str, key: dict[str, Any]) -> Path | None:
    """Return the file of a result of a model; none without a cache."""
    return cache / checkpoint.digest[:16] / f"{kind}-{canonical_digest(key)[:16]}.json" if cache else None


def find(path: Path | None, key: dict[str, Any], kind: type[_Result]) -> _Result | None:
    """Return the result in a file, if it depends on the same."""
    if path is None or not path.exists():
        return None
    stored = read_json(path)
    return kind.model_validate(stored["result"]) if stored.get("key") == key else None


def keep(path: Path | None, key: dict[str, Any], result: BaseModel) -> None:
    """Write a result and what it depends on, atomically."""
    if path is not None:
        write_json(path, {"key": key, "result": result.model_dump(mode="json")})
