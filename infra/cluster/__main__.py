"""`python -m infra.cluster build|up|register|down|status|env|values [--folder DIR]`."""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from infra.cluster import build, machine
from infra.cluster.api import Api
from infra.cluster.cluster import Cluster
from infra.cluster.services import SERVICES, down, state, up
from infra.cluster.values import IMAGES, values, variables
from infra.servers import services as servers
from regrow.errors import InputError, RegrowError

_HELP = {
    "build": "compile Kubernetes from Debian's source package (5 to 10 minutes, once)",
    "up": "start what does not run, and wait until pods run; also the servers (S3, MLflow, ZenML)",
    "register": "make the ZenML secrets and the stack `kubernetes`, or bring them up to date",
    "down": "end all pods and programs and undo what was changed on the machine; records and images stay in the folder",
    "status": "say what runs where (exit status 1 if something does not)",
    "env": 'print the variables of a client, with passwords: eval "$(python -m infra.cluster env)"',
    "values": "print the values of the stack `kubernetes` as JSON: regrow stack up kubernetes --values FILE",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.action == "build":
            return _build()
        cluster = Cluster(options.folder)
        if options.action == "up":
            return _up(cluster, options.gpus, options.servers)
        if options.action == "register":
            return _register(cluster, options.images)
        if options.action == "values":
            return _values(cluster, options.images)
        return {"down": _down, "status": _status, "env": _env}[options.action](cluster)
    except RegrowError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; `down` stops what was started, `build` goes on where it was\n")
        return 130


def _build() -> int:
    _say(f"Kubernetes {build.VERSION}: {build.build(_say)}")
    lacking = machine.missing({**machine.RUN, **machine.IMAGES})
    if lacking:
        _say(
            "still missing before `up` (and for building images):\n"
            f"  apt-get install --no-install-recommends {' '.join(lacking)}"
        )
    return 0


def _up(cluster: Cluster, gpus: int | None, with_servers: bool) -> int:
    if gpus is not None and gpus < 0:
        raise InputError(f"--gpus {gpus}: must not be negative")
    up(cluster, gpus, _say)
    if with_servers:
        home = cluster.servers
        home.make()
        with home.lock():
            servers.listen_at(home, cluster.address)
            servers.up(home, servers.GROUPS["all"], _say)
    _say(f'for clients: eval "$(python -m infra.cluster env --folder {shlex.quote(str(cluster.folder))})"')
    return 0


def _register(cluster: Cluster, images: Path) -> int:
    # First: ZenML reads the address of its server when it is imported.
    os.environ.update(variables(cluster))
    from infra.cluster.stack import register

    for change in register(cluster, images):
        _say(f"{change.kind} {change.name}: {change.done}")
    return 0


def _down(cluster: Cluster) -> int:
    if not cluster.folder.is_dir():
        _say(f"{cluster.folder}: no cluster there")
        return 0
    down(cluster, _say)
    if cluster.servers.folder.is_dir():
        with cluster.servers.lock():
            servers.down(cluster.servers, servers.GROUPS["all"], _say)
    return 0


def _status(cluster: Cluster) -> int:
    states = {name: state(cluster, service) for name, service in SERVICES.items()}
    for name, found in states.items():
        record = cluster.record(name)
        where = f"pid {record['pid']}  log {cluster.log(name)}" if record else ""
        _say(f"{name:<18} {found:<8} {where}".rstrip())
    if set(states.values()) != {"running"}:
        return 1
    try:
        lacks = Api(cluster).node_lacks()
    except Exception as error:  # said as it is; nothing else can be known
        lacks = str(error)
    _say(lacks or f"node {cluster.node} is ready with {cluster.gpus} GPUs; registry {cluster.registry}")
    home = cluster.servers
    for name, service in servers.SERVICES.items() if home.folder.is_dir() else []:
        if home.record(name) is not None:
            _say(f"{name:<18} {servers.state(home, service):<8} {service.url(home)}")
    return 1 if lacks else 0


def _env(cluster: Cluster) -> int:
    for name, value in variables(cluster).items():
        _say(f"export {name}={shlex.quote(value)}")
    return 0


def _values(cluster: Cluster, images: Path) -> int:
    _say(json.dumps(values(cluster, images), indent=2, sort_keys=True))
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.cluster",
        description="A real Kubernetes cluster of one node on this machine, with a registry and fake GPUs.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="|".join(_HELP))
    for name, text in _HELP.items():
        action = actions.add_parser(name, help=text, description=text)
        if name != "build":
            action.add_argument(
                "--folder",
                type=Path,
                default=Path("runs/cluster"),
                help="keys, records, images, logs (%(default)s)",
            )
        if name in ("register", "values"):
            action.add_argument(
                "--images", type=Path, default=IMAGES, help="what infra.docker build wrote (%(default)s)"
            )
        if name == "up":
            action.add_argument(
                "--gpus",
                type=int,
                help="GPUs that the node says it has; they compute nothing (at first 2, then kept)",
            )
            action.add_argument(
                "--no-servers", dest="servers", action="store_false", help="without S3, MLflow and ZenML"
            )
    return parser


if __name__ == "__main__":
    sys.exit(main())
