"""Recipes by name: the files beside this one."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from regrow.errors import InputError


def named_recipes() -> dict[str, str]:
    """Return the recipes that come with regrow: by name, the first line of the file, which says what it is."""
    folder = files(__package__) / "files"
    found = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda e: e.name
    )
    return {
        entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        for entry in found
    }


def read_recipe(source: str) -> Any:
    """Return a recipe's raw settings from a YAML file, or from a name among `named_recipes`.

    Raises:
        InputError: neither a file nor a name, or not YAML.
    """
    path = Path(source)
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    elif source in named_recipes():
        text = (files(__package__) / "files" / f"{source}.yaml").read_text(encoding="utf-8")
    else:
        raise InputError(
            f"--recipe {source}: no such file, and no recipe of that name; named ones: {', '.join(named_recipes())}"
        )
    try:
        value = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{source}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict):
        raise InputError(f"{source}: holds a {type(value).__name__}; write one NAME: VALUE a line")
    return value
