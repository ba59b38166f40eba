"""The five services, what each needs, and how one is started, stopped and looked at."""

import ipaddress
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from infra.servers import mariadb, mlflow_server, postgres, processes, programs, s3, zenml_server
from infra.servers.home import HOST, Home, is_free
from regrow.errors import InputError

# What a server must not take over from the shell that starts it.
_FOREIGN = ("MLFLOW_", "_MLFLOW_", "ZENML_", "AWS_", "PG", "MYSQL_", "MARIADB_", "WEED_", "REGROW_SERVER")


def _nothing(_home: Home) -> None:
    return None


def _no_variables(_home: Home) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Service:
    """One server program.

    Attributes:
        name: also of its folder, its log and its record.
        title: what people call it.
        prepare: makes what it needs on disk; says which package is missing.
        command: how it is started.
        probe: raises until it is ready.
        url: where it answers.
        environment: its variables, secrets included.
        finish: done once it is ready.
        needs: services that must run before.
        ports: names of the ports that it takes.
        accounts: users to run as, where this is root.
        how: the signal that stops it without loss.
        seconds: how long it may take to be ready.
        reached: whether it listens at the folder's `host`, where others reach it.
    """

    name: str
    title: str
    prepare: Callable[[Home], None]
    command: Callable[[Home], list[str]]
    probe: Callable[[Home], None]
    url: Callable[[Home], str]
    environment: Callable[[Home], dict[str, str]] = _no_variables
    finish: Callable[[Home], None] = _nothing
    needs: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    accounts: tuple[str, ...] = ()
    how: signal.Signals = signal.SIGTERM
    seconds: float = 60
    reached: bool = False


_ALL = (
    Service(
        "s3", "S3 store (SeaweedFS)", s3.prepare, s3.command, s3.probe, s3.url, ports=s3.PORTS, seconds=120,
        reached=True,
    ),
    Service(
        "postgres", "PostgreSQL", postgres.prepare, postgres.command, postgres.probe, postgres.url,
        ports=("postgres",), accounts=("postgres",),
        how=signal.SIGINT,  # its "fast" way: open connections are closed
    ),
    Service(
        "mlflow", "MLflow server", mlflow_server.prepare, mlflow_server.command, mlflow_server.probe,
        mlflow_server.url, mlflow_server.environment, needs=("s3", "postgres"), ports=("mlflow",), seconds=600,
        reached=True,
    ),
    Service(
        "mariadb", "MariaDB", mariadb.prepare, mariadb.command, mariadb.probe, mariadb.url, ports=("mariadb",),
        accounts=("mysql",), seconds=120,
    ),
    Service(
        "zenml", "ZenML server", zenml_server.prepare, zenml_server.command, zenml_server.probe,
        zenml_server.url, zenml_server.environment, zenml_server.finish, needs=("mariadb",), ports=("zenml",),
        seconds=600, reached=True,
    ),
)  # fmt: skip
SERVICES = {one.name: one for one in _ALL}
# What can be asked for, and the services that mean to be up for it, in the order of their starts.
GROUPS = {
    "s3": ("s3",),
    "mlflow": ("s3", "postgres", "mlflow"),
    "zenml": ("mariadb", "zenml"),
    "all": tuple(SERVICES),
}


def state(home: Home, service: Service) -> str:
    """Return `running`, `stopped`, or `died` for one that was started and is gone."""
    record = home.record(service.name)
    if record is None:
        return "stopped"
    return "running" if processes.is_alive(record) else "died"


def listen_at(home: Home, host: str) -> None:
    """Let the servers that others may reach listen at another address from their next start on.

    Raises:
        InputError: it is no address of this machine, or servers run that listen elsewhere.
    """
    if host == home.host:
        return
    try:
        here = not ipaddress.ip_address(host).is_unspecified and is_free(0, host)
    except ValueError:
        here = False
    if not here:
        raise InputError(f"--host {host}: no address of this machine; `ip address` lists them")
    running = [
        name for name, service in SERVICES.items() if service.reached and state(home, service) == "running"
    ]
    if running:
        raise InputError(
            f"--host {host}: {', '.join(running)} run and listen at {home.host}; stop them first (down), and "
            "register anew what remembers the old address (artifact stores, tracking URIs)"
        )
    home.keep_host(host)


def up(home: Home, names: Iterable[str], say: Callable[[str], None] = lambda _text: None) -> None:
    """Start the services that do not run, and return when all are ready.

    Args:
        home: where they keep their data.
        names: services in the order of their starts.
        say: is told what happens.

    Raises:
        InputError: a package is missing, or a port was taken over.
        RegrowError: a server did not come up; its log is named. Others stay up.
    """
    chosen = [SERVICES[name] for name in names]
    for service in chosen:  # what is missing is said before anything has started
        service.prepare(home) if state(home, service) != "running" else None
    for service in chosen:
        if state(home, service) == "running":
            say(f"{service.title}: runs already at {service.url(home)}")
            continue
        say(f"{service.title}: starting")
        _start(home, service)
        say(f"{service.title}: ready at {service.url(home)}")


def down(home: Home, names: Iterable[str], say: Callable[[str], None] = lambda _text: None) -> None:
    """Stop services, and whatever their processes left behind; the last started first.

    Args:
        home: where they keep their data, which stays.
        names: services; those that need one of them are stopped too.
        say: is told what happens.
    """
    wanted = set(names)
    wanted |= {one.name for one in SERVICES.values() if wanted & set(one.needs)}
    for service in reversed([SERVICES[name] for name in SERVICES if name in wanted]):
        before = state(home, service)
        processes.stop(home.record(service.name), home.folder / service.name, how=service.how)
        home.keep_record(service.name, None)
        say(f"{service.title}: {'stopped' if before == 'running' else 'was not running'}")


def _start(home: Home, service: Service) -> None:
    folder = home.place(service.name)
    # A killed server may have left children that hold its port or its data.
    processes.stop(None, folder, how=service.how)
    for name in service.ports:
        if not all(is_free(home.port(name), host) for host in {HOST, home.host}):
            raise InputError(
                f"{service.title}: port {home.port(name)}, which is its own since the first start, is taken by "
                f"another program; stop that one, or remove '{name}' from {home.folder / 'state.json'} for a new port"
            )
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    account = programs.account(*service.accounts) if service.accounts else None
    record = processes.start(
        service.command(home),
        folder=folder,
        log=home.log(service.name),
        environment=inherited | service.environment(home),
        account=account,
    )
    home.keep_record(service.name, record)
    try:
        processes.wait_ready(
            service.title, record, home.log(service.name), lambda: service.probe(home), service.seconds
        )
        service.finish(home)
    except BaseException:
        processes.stop(record, folder, how=service.how)
        home.keep_record(service.name, None)
        raise
