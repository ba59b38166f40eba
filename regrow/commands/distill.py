"""Let the unpruned model rewrite a dataset's answers."""

import argparse
from pathlib import Path
from typing import Any

from regrow.commands.shared import MODEL, family_option, open_model, pairs, read_yaml
from regrow.errors import InputError


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL)
    add("--data", required=True, help="dataset: a file, a folder or hub:org/name@revision")
    add("--adapter", default="columns", help="what the rows look like (default: columns)")
    add("--column", action="append", metavar="FIELD=COLUMN", help="for the adapter columns")
    family_option(parser)
    add(
        "--skip-malformed",
        dest="malformed",
        action="store_const",
        const="skip",
        default="stop",
        help="leave rows out that cannot be read, instead of stopping",
    )
    add("--limit", type=int, help="number of records")
    add(
        "--engine",
        choices=("transformers", "vllm", "endpoint"),
        help="what generates (default: transformers)",
    )
    add("--url", help="for the engine endpoint: base URL of the server, such as http://host:8000/v1")
    add("--served-model", help="for the engine endpoint: the model's name there")
    add("--in-flight", type=int, help="for the engine endpoint: requests at one time")
    add("--template", help="template name or file (default: the family's)")
    add(
        "--no-reference",
        dest="use_reference",
        action="store_const",
        const=False,
        help="fresh answers: hide the reference",
    )
    add("--max-new-tokens", type=int, help="longest answer, in tokens (default: 256)")
    add("--attempts", type=int, help="tries per record, the first one greedy (default: 1)")
    add("--temperature", type=float, help="0 is greedy (default; 0.7 for the further ones of several tries)")
    add("--seed", type=int, help="seed of sampling and of the records' order (default: 0)")
    add("--settings", type=Path, help="YAML of regrow.selfdata.SelfDataSpec: shard size, banned phrases, ...")
    add("--out", type=Path, required=True, help="folder for records.parquet and summary.json")
    add("--export", type=Path, help="write the records as a .jsonl, .parquet or .csv file, too")


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Let the unpruned model rewrite a dataset's answers."""
    from regrow.parsing import parse
    from regrow.records import read_and_count
    from regrow.selfdata import SelfDataSpec, export
    from regrow.selfdata import distill as distill_records
    from regrow.selfdata.store import SUFFIXES
    from regrow.source import DatasetSpec, origin

    dataset = {
        "name": "data",
        "source": arguments.data,
        "adapter": arguments.adapter,
        "columns": pairs(arguments.column, "--column") if arguments.column else None,
        "limit": arguments.limit,
        "seed": arguments.seed or 0,
        "family": arguments.family,
        "malformed": arguments.malformed,
    }
    settings = read_yaml(arguments.settings)
    names = ("template", "use_reference", "max_new_tokens", "attempts", "temperature", "seed", "engine")
    settings |= {name: value for name in names if (value := getattr(arguments, name)) is not None}
    server = {"url": arguments.url, "model": arguments.served_model, "in_flight": arguments.in_flight}
    if given := {name: value for name, value in server.items() if value is not None}:
        settings["endpoint"] = settings.get("endpoint", {}) | given
    if settings.get("engine") == "endpoint" and not {"url", "model"} <= set(settings.get("endpoint", {})):
        raise InputError("--engine endpoint: needs --url and --served-model")
    if arguments.export and arguments.export.suffix.lower() not in SUFFIXES:
        raise InputError(f"--export {arguments.export}: unknown format; use {', '.join(SUFFIXES)}")
    spec = parse(DatasetSpec, dataset, "--data")
    asked = parse(SelfDataSpec, settings, str(arguments.settings or "distill"))
    reading = read_and_count(spec)
    model, counts = open_model(arguments.model), reading.counts()
    data = distill_records(
        model, reading.records, spec.family, asked, arguments.out, read=counts, origin=origin(spec)
    )
    exported = {"export": str(export(data, arguments.export))} if arguments.export else {}
    return {"folder": str(data.folder), **exported} | data.summary
