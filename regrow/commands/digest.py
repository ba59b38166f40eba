"""Print the digest that names a model folder's content."""

import argparse
from pathlib import Path
from typing import Any


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER")


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Name a model folder's content."""
    from regrow.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(arguments.folder)
    return {
        "digest": checkpoint.digest,
        "folder": str(checkpoint.folder),
        "parameters": checkpoint.parameters,
    }
