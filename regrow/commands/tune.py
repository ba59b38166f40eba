"""Fine-tune a model on a dataset that passed the gate."""

import argparse
import os
from pathlib import Path
from typing import Any, cast

from regrow.commands.shared import MODEL, open_model


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL)
    add(
        "--data",
        type=Path,
        action="append",
        required=True,
        help="distill's folder, or a file of examples; twice for method continual: first and second phase",
    )
    add(
        "--recipe",
        default="sft-lora",
        metavar="FILE|NAME",
        help="YAML of regrow.tune.Recipe, or a recipe that comes with regrow (default: sft-lora)",
    )
    add("--teacher", metavar="MODEL", help="the unpruned model, for methods that distil from it")
    add(
        "--work",
        type=Path,
        help="folder of the unfinished run, on a volume that outlives the pod (default: by --out)",
    )
    add("--processes", type=int, help="processes on this machine (default: one for each GPU, or one)")
    add(
        "--nodes",
        metavar="N|auto",
        help="machines that run this very command (default: 1); auto: as ZenML's pod_count or torchrun tells each pod",
    )
    add("--node-rank", type=int, help="number of this machine; 0 writes --out (default: 0)")
    add("--main-address", help="address of machine 0")
    add("--main-port", type=int, help="port on machine 0, needed for several machines")
    add("--sharding", choices=("auto", "none", "fsdp"), help="spread weights over the GPUs (default: auto)")
    add("--out", type=Path, required=True, help="folder for checkpoint, adapter, log and summary")


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune a model."""
    from regrow.parsing import parse
    from regrow.tune import Launch, Recipe
    from regrow.tune import tune as tune_model
    from regrow.tune.pods import launch_of
    from regrow.tune.recipe import read_recipe

    recipe = parse(cast("Any", Recipe), read_recipe(arguments.recipe), arguments.recipe)
    names = ("processes", "nodes", "node_rank", "main_address", "main_port", "sharding")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.nodes == "auto":
        launch = launch_of(
            os.environ, **{name: given[name] for name in ("processes", "sharding") if name in given}
        )
    else:
        launch = parse(Launch, given, "tune")
    tuned = tune_model(
        open_model(arguments.model),
        arguments.data,
        recipe,
        arguments.out,
        work=arguments.work,
        teacher=open_model(arguments.teacher) if arguments.teacher else None,
        launch=launch,
    )
    if tuned is None:
        return {"text": "done; machine 0 writes the result", "node_rank": launch.node_rank}
    return {"folder": str(tuned.folder)} | tuned.summary
