"""Run arms x block sizes x seeds over shared data, and compare the arms."""

import argparse
from pathlib import Path
from typing import Any

from regrow.commands.shared import launcher, pipeline_options


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    pipeline_options(parser, "configs/study-smollm2.yaml")


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run a study."""
    launch = launcher("study")
    from regrow.study import tables

    result = launch.run_study(arguments.config, stack=arguments.stack)
    folder = Path("runs/studies") / arguments.config.stem
    text = f"{tables(result)}\nreport  {(folder / 'report.html').absolute()}"
    return result.model_dump(mode="json") if arguments.json else {"text": text}
