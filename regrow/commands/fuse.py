"""Write an adapter into the weights of the model it was trained on."""

import argparse
from pathlib import Path
from typing import Any

from regrow.commands.shared import MODEL, open_model
from regrow.errors import InputError


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="the adapter's parent: " + MODEL)
    add("--adapter", type=Path, required=True, help="folder that tune left, or PEFT")
    add("--out", type=Path, required=True, help="folder for the merged model")


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write an adapter into its parent's weights."""
    from regrow.checkpoint import Checkpoint
    from regrow.lineage import material, record
    from regrow.tune.fuse import fuse as fuse_adapter

    if arguments.out.exists():
        raise InputError(f"{arguments.out}: already exists; name another --out folder or remove it")
    if not (arguments.adapter / "adapter_config.json").exists():
        raise InputError(f"{arguments.adapter}: no adapter_config.json; this is not an adapter's folder")
    parent = open_model(arguments.model)
    fuse_adapter(parent, arguments.adapter, arguments.out, note=f"Parent: sha256:{parent.digest}\n")
    fused = Checkpoint.open(arguments.out)
    record(
        "fuse", fused, [material(parent, "checkpoint"), material(arguments.adapter, "adapter")], parameters={},
        inherit=[parent.folder],
    )  # fmt: skip
    return {"folder": str(arguments.out)} | fused.summary()
