"""The folder of the servers: their data, logs, ports, passwords and which processes are theirs."""

import fcntl
import json
import os
import random
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regrow.errors import InputError

HOST = "127.0.0.1"


class Home:
    """What is kept between `up` and `down`.

    `secrets.json` (passwords and keys) and `state.json` (ports, processes) are readable by their owner
    alone. Ports stay the same over restarts, because clients write addresses down.

    Args:
        folder: made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def make(self) -> None:
        """Make the folder; others may pass through it (the databases' own users must), but not list it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o711)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder: one `up` or `down` at a time."""
        with open_private(self.folder / "lock") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(
                    f"{self.folder}: another up or down is at work there; wait until it is done"
                ) from error
            yield

    def place(self, service: str) -> Path:
        """Return the folder of a service."""
        path = self.folder / service
        path.mkdir(exist_ok=True)
        return path

    def log(self, service: str) -> Path:
        """Return the log file of a service."""
        return self.folder / f"{service}.log"

    def secret(self, name: str) -> str:
        """Return the secret of that name; a random one is made and kept at first use."""
        kept = _read(self.folder / "secrets.json")
        if name not in kept:
            self.keep_secret(name, secrets.token_urlsafe(24))
            return self.secret(name)
        return str(kept[name])

    def known_secret(self, name: str) -> str | None:
        """Return the secret of that name if there is one."""
        return _read(self.folder / "secrets.json").get(name)

    def keep_secret(self, name: str, value: str) -> None:
        """Keep a secret that somebody else made."""
        path = self.folder / "secrets.json"
        write_private(path, json.dumps(_read(path) | {name: value}, indent=1))

    def port(self, name: str) -> int:
        """Return the port of that name, a free one at first use and the same one ever after."""
        state = self._state()
        if name not in state["ports"]:
            state["ports"][name] = _free_port(set(state["ports"].values()), self.host)
            self._write(state)
        return int(state["ports"][name])

    def known_port(self, name: str) -> int | None:
        """Return the port of that name if one was given."""
        return self._state()["ports"].get(name)

    @property
    def host(self) -> str:
        """The address at which S3, MLflow and ZenML listen; the databases stay on the loopback address."""
        return str(self._state()["host"])

    def keep_host(self, host: str) -> None:
        """Listen at that address from the next start on."""
        self._write(self._state() | {"host": host})

    def record(self, service: str) -> dict[str, Any] | None:
        """Return the process that was started for a service: `pid` and `created` (seconds since the epoch)."""
        return self._state()["processes"].get(service)

    def keep_record(self, service: str, record: dict[str, Any] | None) -> None:
        """Remember, or forget, the process of a service."""
        state = self._state()
        if record is None:
            state["processes"].pop(service, None)
        else:
            state["processes"][service] = record
        self._write(state)

    def _state(self) -> dict[str, Any]:
        return {"ports": {}, "processes": {}, "host": HOST} | _read(self.folder / "state.json")

    def _write(self, state: dict[str, Any]) -> None:
        write_private(self.folder / "state.json", json.dumps(state, indent=1))


def open_private(path: Path) -> Any:
    """Open a file for appending that only its owner may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")


def write_private(path: Path, text: str, owner: tuple[int, int] | None = None) -> None:
    """Write a file that only its owner may read, whole or not at all.

    Args:
        path: the file; replaced if it is there.
        text: its content.
        owner: user and group id; this process's own if not given.
    """
    scratch = path.with_name(f".{path.name}.new")
    scratch.unlink(missing_ok=True)
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        if owner is not None:
            os.fchown(out.fileno(), *owner)
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    scratch.replace(path)


def is_free(port: int, host: str = HOST) -> bool:
    """Tell whether a server could take the port at that address now."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError:
            return False
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(
            f"{path}: no JSON ({error}); restore it, or remove the folder to begin anew"
        ) from error


def _free_port(taken: set[int], host: str) -> int:
    # Below the range from which the system gives ports to clients: nobody takes it between down and up.
    for port in random.SystemRandom().sample(range(20000, 32000), 200):
        if port not in taken and is_free(port) and is_free(port, host):
            return port
    raise InputError(f"no free port on {HOST} between 20000 and 32000; stop something that listens there")
