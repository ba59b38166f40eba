"""Write what a checkpoint is made of as a bill of materials."""

import argparse
from pathlib import Path
from typing import Any

from regrow.commands.shared import MODEL, open_model


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL)
    add(
        "--cyclonedx", action="store_true", required=True, help="CycloneDX 1.6 with an ML model card, as JSON"
    )
    add("--out", type=Path, required=True, help="file to write")


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write a CycloneDX bill of materials."""
    from regrow.files import write_json
    from regrow.lineage.cyclonedx import bill_of_materials

    document = bill_of_materials(open_model(arguments.model))
    write_json(arguments.out, document)
    return {
        "file": str(arguments.out),
        "serial": document["serialNumber"],
        "components": 1 + len(document.get("components", [])),
    }
