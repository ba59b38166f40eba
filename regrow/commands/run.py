"""Run the whole pipeline from a configuration file."""

import argparse
from pathlib import Path
from typing import Any

from regrow.commands.shared import launcher, pipeline_options


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    pipeline_options(parser, "configs/demo.yaml")


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the whole pipeline."""
    launch = launcher("run")
    from regrow.report import table

    summary = launch.run_compress(arguments.config, stack=arguments.stack)
    one = summary["registered"]
    text = (
        f"{table(summary)}\n\n"
        f"registered  {one['name']} version {one['version']} as @{one['alias']}\n"
        f"digest      {one['digest']}\n"
        f"report      {Path('runs/latest/report.html').absolute()}"
    )
    if arguments.stack in (None, "local"):  # others have servers of their own
        text += "\nweb UIs     make ui   (MLflow at http://127.0.0.1:5000, ZenML at http://127.0.0.1:8237)"
    return summary if arguments.json else {"text": text}
