"""The configuration of the model that a run compresses, found without a network."""

import re
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from regrow import tensors
from regrow.checkpoint import DTYPES
from regrow.errors import InputError
from regrow.files import read_json
from regrow.source import ModelSpec


@lru_cache(maxsize=1)
def known_shapes() -> dict[str, dict[str, Any]]:
    """Return the configurations of `shapes.yaml` by the model's name."""
    text = files("regrow.capacity").joinpath("shapes.yaml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return found


def config_for(spec: ModelSpec, named: str | None = None) -> tuple[str, dict[str, Any]]:
    """Return a name and the configuration of a model.

    Args:
        spec: the run's model.
        named: what the user names instead: a known shape, a config.json, or a model folder.

    Raises:
        InputError: the shape is not known here.
    """
    if named is not None:
        return _named(named)
    parsed = spec.parsed
    if parsed.kind == "local" and (parsed.path / "config.json").exists():
        return _folder(parsed.path)
    if name := recognise(spec.source):
        config = dict(known_shapes()[name])
        # A GGUF file is written in the type that the run asks for.
        return name, config | ({"dtype": spec.dtype} if spec.source.endswith(".gguf") else {})
    if parsed.kind == "hub" and (cached := _from_cache(spec)):
        return spec.source, cached
    raise InputError(
        f"model.source {spec.source}: its shape is not known here and the source is not asked for it; give --model "
        f"with a config.json, a model folder, or one of {', '.join(sorted(known_shapes()))}"
    )


def recognise(source: str) -> str | None:
    """Return the known model that a source names: Llama-3.1-8B for hub:meta-llama/Llama-3.1-8B-Instruct@...

    A name counts where it stands whole; of several the longest does.
    """
    found = [
        name
        for name in known_shapes()
        if re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", source, re.IGNORECASE)
    ]
    return max(found, key=len, default=None)


def _named(named: str) -> tuple[str, dict[str, Any]]:
    path = Path(named)
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".json":
        return str(path), _mapping(path)
    by_name = {name.lower(): name for name in known_shapes()}
    if name := by_name.get(named.lower()):
        return name, dict(known_shapes()[name])
    raise InputError(
        f"--model {named}: no folder, no .json file and no known shape; known: {', '.join(sorted(known_shapes()))}"
    )


def _folder(folder: Path) -> tuple[str, dict[str, Any]]:
    config = _mapping(folder / "config.json")
    if not (config.get("dtype") or config.get("torch_dtype")) and any(folder.glob("*.safetensors")):
        sizes: dict[str, int] = {}
        for info in tensors.index(folder).values():
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.count
        names = {stored: name for name, stored in DTYPES.items()}
        config["dtype"] = names.get(max(sizes, key=lambda kind: sizes[kind]), "bfloat16")
    return str(folder), config


def _mapping(path: Path) -> dict[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path}: not a model's configuration (a JSON object)")
    return config


def _from_cache(spec: ModelSpec) -> dict[str, Any] | None:
    """Return the configuration where the hub's local cache has it."""
    from huggingface_hub import try_to_load_from_cache

    repo, _, revision = spec.source.removeprefix("hub:").partition("#")[0].partition("@")
    found = try_to_load_from_cache(repo, "config.json", revision=revision or None)
    return _mapping(Path(found)) if isinstance(found, str) else None
