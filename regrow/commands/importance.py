"""Measure which blocks, neurons, KV groups and channels matter; writes importance.json."""

import argparse
from pathlib import Path
from typing import Any

from regrow.commands.shared import MODEL, draw_page, measure, text_options


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL)
    text_options(parser, required=True)
    add(
        "--settings",
        type=Path,
        help="YAML of regrow.importance.ImportanceSpec: criteria that search, batch size, ...",
    )
    add("--max-tokens", type=int, help="tokens kept of each text (default: 256)")
    add("--all-tokens", action="store_true", default=None, help="angular distance over all tokens, too")
    add("--skip-first", type=int, help="leading tokens that means over tokens leave out (default: 0)")
    add(
        "--placement",
        choices=("auto", "whole", "blocks"),
        help="load the whole model, or one block at a time (default: auto, whole if it fits into memory)",
    )
    add(
        "--states",
        choices=("memory", "disk"),
        help="where hidden states wait for the next block (default: memory)",
    )
    add("--out", type=Path, required=True, help="folder for importance.json")


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure which blocks and units of width matter."""
    from regrow.importance import choose_blocks

    out = arguments.out
    result = measure(arguments, out)
    result.save(out / "importance.json")
    page = draw_page("importance_page", result, out / "importance.html")
    best = {
        size: choose_blocks(result, result.blocks, "angular_distance", size)
        for size in range(1, result.blocks)
    }
    return {
        "importance": str(out / "importance.json"),
        **({"page": str(page)} if page else {}),
        "model": result.model_digest,
        "samples": result.samples,
        "tokens": result.tokens,
        "best": {str(size): [choice.removed[0], choice.score] for size, choice in best.items()},
    }
