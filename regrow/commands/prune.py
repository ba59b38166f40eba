"""Remove blocks, neurons, KV groups or channels."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.commands.shared import MODEL, measure, open_model, text_options
from regrow.errors import InputError

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint
    from regrow.prune import PrunePlan


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL)
    add("--plan", type=Path, help="plan file: plan.json of a pruned model, or of --dry-run")
    add("--blocks", type=int, help="number of blocks to remove")
    add("--drop", metavar="START:STOP", help="blocks to remove, 0-based, half-open: 21:27, or 5,13:17")
    add("--neurons", type=int, help="MLP neurons that stay in each block")
    add("--groups", type=int, help="KV groups, with their query heads, that stay in each block")
    add("--channels", type=int, help="channels (hidden size) that stay")
    add("--to-params", help="parameters of the pruned model, such as 6.7B; the nearest size is taken")
    add("--to-ratio", type=float, help="parameters over the unpruned model's, such as 0.8")
    add(
        "--by",
        choices=("depth", "neurons", "groups", "channels", "width"),
        help="what goes to reach --to-params or --to-ratio (default: depth)",
    )
    add("--criterion", help="what chooses the blocks (default: angular_distance)")
    add("--seed", type=int, help="seed of the criterion random")
    add("--importance", type=Path, help="importance.json of this model")
    text_options(parser, required=False)
    add("--dry-run", action="store_true", help="make the plan only; --out is then the plan file")
    add("--out", type=Path, help="folder for the pruned model")


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make a plan, and apply it."""
    from regrow.prune import PrunePlan, apply

    if not (arguments.out or arguments.dry_run):
        raise InputError("--out: name the folder for the pruned model (or say --dry-run)")
    base = open_model(arguments.model)
    plan = PrunePlan.read(arguments.plan) if arguments.plan else _plan(base, arguments)
    if arguments.dry_run:
        if arguments.out:
            plan.save(arguments.out)
        return (
            plan.summary()
            | {"what": plan.describe()}
            | ({"plan": str(arguments.out)} if arguments.out else {})
        )
    pruned = apply(base, plan, arguments.out)
    return (
        pruned.summary()
        | {"folder": str(pruned.folder), "plan": str(pruned.folder / "plan.json")}
        | plan.summary()
        | {"share_of_parameters": round(pruned.parameters / base.parameters, 4)}
    )


def _plan(base: "Checkpoint", arguments: argparse.Namespace) -> "PrunePlan":
    from regrow.importance import LayerImportance
    from regrow.parsing import parse
    from regrow.prune import PruneSpec, make_plan

    names = (
        "blocks",
        "drop",
        "neurons",
        "groups",
        "channels",
        "to_params",
        "to_ratio",
        "by",
        "criterion",
        "seed",
    )
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    spec = parse(PruneSpec, given, "prune")
    if arguments.importance:
        measured = LayerImportance.read(arguments.importance)
    elif not spec.needs_importance:
        measured = None
    elif arguments.data:
        measured = measure(arguments)
    else:
        raise InputError("prune: say how to choose what goes, with --importance FILE or --data FILE")
    return make_plan(base, spec, measured)
