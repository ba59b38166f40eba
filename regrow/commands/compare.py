"""Prune by every criterion and see what each choice does."""

import argparse
from pathlib import Path
from typing import Any

from regrow.commands.shared import MODEL, names, numbers, open_model
from regrow.errors import InputError


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL)
    add("--importance", type=Path, required=True, help="importance.json of this model")
    add("--suite", required=True, help="name of a suite, or YAML of regrow.evaluate.EvaluateSpec")
    add("--blocks", type=numbers, required=True, metavar="N,N", help="numbers of blocks: 3,6,9")
    add(
        "--criteria",
        type=names,
        default=["angular_distance", "block_influence", "reverse"],
        metavar="NAME,NAME",
    )
    add("--widths", type=names, default=[], metavar="NAME,NAME", help="neurons, groups, channels, width")
    add("--seeds", type=int, default=1, help="random choices of each size (default: 1)")
    add("--out", type=Path, required=True, help="folder for comparison.json and comparison.md")


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prune by every criterion, and see what each did."""
    from regrow.compare import compare as compare_criteria
    from regrow.evaluate.suites import read_suite
    from regrow.importance import CRITERIA, LayerImportance

    for option, given, known in (
        ("--criteria", arguments.criteria, CRITERIA),
        ("--widths", arguments.widths, ("neurons", "groups", "channels", "width")),
    ):
        if unknown := sorted(set(given) - set(known)):
            raise InputError(f"{option}: unknown {unknown[0]!r}; choose among {', '.join(known)}")
    result = compare_criteria(
        open_model(arguments.model),
        LayerImportance.read(arguments.importance),
        read_suite(arguments.suite),
        arguments.out,
        sizes=arguments.blocks,
        criteria=arguments.criteria,
        widths=arguments.widths,
        seeds=range(arguments.seeds),
    )
    return result.model_dump(mode="json") if arguments.json else {"text": result.table()}
