"""`python -m infra.servers up|down|status|env [s3|mlflow|zenml|all] [--folder DIR]`."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from infra.servers.environment import variables
from infra.servers.home import Home
from infra.servers.services import GROUPS, SERVICES, down, listen_at, state, up
from regrow.errors import InputError, RegrowError

_HELP = {
    "up": "start what does not run, and wait until it is ready",
    "down": "stop; the data stay in the folder",
    "status": "say what runs where (exit status 1 if something does not)",
    "env": 'print the variables of a client, with passwords: eval "$(python -m infra.servers env)"',
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    options = _parser().parse_args(arguments)
    home = Home(options.folder)
    try:
        if options.action == "up":
            return _up(home, options.what, options.host)
        return {"down": _down, "status": _status, "env": _env}[options.action](home, options.what)
    except RegrowError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; `down` stops what was started\n")
        return 130


def _up(home: Home, what: str, host: str | None) -> int:
    home.make()
    with home.lock():
        if host is not None:
            listen_at(home, host)
        up(home, GROUPS[what], _say)
    _say(f"passwords: {home.folder / 'secrets.json'}; for clients: python -m infra.servers env")
    return 0


def _down(home: Home, what: str) -> int:
    if not home.folder.is_dir():
        _say(f"{home.folder}: no servers there")
        return 0
    # The S3 store may serve others than MLflow: it goes when it is named.
    names = [name for name in GROUPS[what] if not (what == "mlflow" and name == "s3")]
    with home.lock():
        down(home, names, _say)
    return 0


def _status(home: Home, what: str) -> int:
    states = {name: state(home, SERVICES[name]) for name in GROUPS[what]}
    for name, found in states.items():
        service = SERVICES[name]
        record = home.record(name)
        where = ""
        if record is not None and home.known_port(service.ports[0]) is not None:
            where = f"{service.url(home)}  pid {record['pid']}  log {home.log(name)}"
        _say(f"{name:<9} {found:<8} {where}".rstrip())
    return 0 if set(states.values()) == {"running"} else 1


def _env(home: Home, what: str) -> int:
    missing = [name for name in GROUPS[what] if home.known_port(SERVICES[name].ports[0]) is None]
    if missing:
        raise InputError(
            f"{home.folder}: {', '.join(missing)} was never up there; python -m infra.servers up {what}"
        )
    for name, value in variables(home, what).items():
        _say(f"export {name}={shlex.quote(value)}")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.servers",
        description="Real servers on this machine, with authentication on: MLflow, ZenML and an S3 store.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="up|down|status|env")
    for name, text in _HELP.items():
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("what", nargs="?", choices=list(GROUPS), default="all", help="default: all")
        if name == "up":
            action.add_argument(
                "--host",
                metavar="ADDRESS",
                help="of this machine, where S3, MLflow and ZenML listen so that others (the pods of a cluster) reach "
                "them; kept for later starts. At first 127.0.0.1. The databases stay there",
            )
        action.add_argument(
            "--folder", type=Path, default=Path("runs/servers"), help="data, logs, passwords (%(default)s)"
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
