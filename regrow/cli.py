"""The `regrow` command: each stage alone, or the whole pipeline.

Results go to standard output (`--json`: one JSON object), progress and logs to standard error. Exit status:
0 done, 1 failed, 2 bad usage or input, 3 a gate was not passed, 75 stopped by SIGTERM and saved.
"""

import argparse
import atexit
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from regrow import __version__
from regrow.commands import COMMANDS
from regrow.errors import RegrowError


def command() -> int:
    """Run as the program that this process is: `main`, with less searching for garbage.

    Importing MLflow, ZenML and torch makes a million objects that stay. By default Python looks through them for cycles
    hundreds of times while they come, and once more at the end: a third of the time of a short command.
    """
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)
    if os.getpid() == 1:  # of a container: the kernel keeps signals from it that it has no handler for
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    return main()


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = _parser().parse_args(argv)
    level = logging.INFO if arguments.verbose else logging.WARNING
    try:
        with _log_to_stderr(level), _only_results_on_stdout() as stdout:
            result = arguments.handler(arguments)
    except RegrowError as error:
        sys.stderr.write(f"regrow: {error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("regrow: interrupted; the same command continues where it can\n")
        return 130
    text = json.dumps(result, indent=2, ensure_ascii=False) if arguments.json else _plain(result)
    stdout.write(text + "\n")
    stdout.close()
    return int(result.get("exit_status", 0))


@contextmanager
def _only_results_on_stdout() -> Iterator[Any]:
    """Send what libraries and child processes print to standard error; yield the real standard output."""
    sys.stdout.flush()
    real = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        yield real
    finally:
        sys.stdout.flush()
        os.dup2(real.fileno(), 1)


@contextmanager
def _log_to_stderr(level: int) -> Iterator[None]:
    """Show regrow's own log; the libraries' loggers keep the handlers that they make themselves.

    A program that calls `main` finds the logger afterwards as it was.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger = logging.getLogger("regrow")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _plain(result: dict[str, Any]) -> str:
    if "text" in result:
        return str(result["text"])
    return "\n".join(
        f"{key}: {json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value}"
        for key, value in result.items()
        if key != "exit_status"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="regrow", description="Prune a language model and regrow its quality from its own words."
    )
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        description = str(command.__doc__).strip().rstrip(".")
        one = subparsers.add_parser(
            command.__name__.rpartition(".")[2],
            help=description[0].lower() + description[1:],
            description=f"{description}.",
        )
        one.add_argument("--json", action="store_true", help="print the result as one JSON object")
        one.add_argument("-v", "--verbose", action="store_true", help="log what is being done")
        command.options(one)
        one.set_defaults(handler=command.handle)
    return parser


if __name__ == "__main__":
    sys.exit(command())
