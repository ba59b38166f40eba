"""See whether rewrites lie closer to the model than the references."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from regrow.commands.shared import MODEL, SELF_DATA, draw_page, family_option, open_model, read_yaml


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help=SELF_DATA)
    family_option(parser)
    add("--model", required=True, help=f"the unpruned model: {MODEL}")
    add("--settings", type=Path, help="YAML of regrow.selfdata.ShiftSpec: encoder, limit, ...")
    add("--out", type=Path, required=True, help="folder for shift.json and shift.html")


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """See whether rewrites lie closer to the unpruned model than the references."""
    from regrow.files import atomic_file
    from regrow.lineage.values import state_shift
    from regrow.parsing import parse
    from regrow.selfdata import SelfData, ShiftSpec
    from regrow.selfdata import shift as shifts

    spec = parse(ShiftSpec, read_yaml(arguments.settings), str(arguments.settings))
    data = SelfData.open(arguments.data, arguments.family)
    model, started = open_model(arguments.model), datetime.now(UTC)
    result = shifts.measure(model, data, arguments.data.absolute().name, spec)
    with atomic_file(arguments.out / "shift.json") as scratch:
        scratch.write_text(result.model_dump_json(indent=2), encoding="utf-8")
    state_shift(result, data, model, spec, arguments.out, started=started)
    page = draw_page("shift_page", result, arguments.out / "shift.html")
    return (
        {"shift": str(arguments.out / "shift.json")}
        | ({"page": str(page)} if page else {})
        | result.summary()
    )
