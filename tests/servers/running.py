"""The servers as a user starts them: by the command line, in a folder of their own."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from infra.servers import programs
from infra.servers.home import Home
from regrow.errors import InputError

ROOT = Path(__file__).parents[2]


def missing() -> str:
    """Say what has to be installed before the servers can start, or nothing."""
    found = []
    for look in (
        lambda: programs.find("postgres", "postgresql"),
        lambda: programs.find("mariadbd", "mariadb-server"),
        programs.find_weed,
        lambda: programs.need_module("flask_wtf", "mlflow[auth]"),
        lambda: programs.need_module("psycopg2", "psycopg2-binary"),
    ):
        try:
            look()
        except InputError as error:
            found.append(str(error))
    return "; ".join(found)


class Servers:
    """All of them, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder)

    def command(self, *words: str, check: bool = True) -> str:
        """Run `python -m infra.servers` and return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "infra.servers", *words, "--folder", str(self.home.folder)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def variables(self) -> dict[str, str]:
        """What `env` tells a client, as a shell understands it."""
        lines = [shlex.split(line) for line in self.command("env").splitlines()]
        assert all(words[0] == "export" for words in lines)
        return dict(words[1].split("=", 1) for words in lines)

    @property
    def secrets(self) -> dict[str, str]:
        return json.loads((self.home.folder / "secrets.json").read_text())

    @property
    def ports(self) -> dict[str, int]:
        return json.loads((self.home.folder / "state.json").read_text())["ports"]

    def client_environment(self, folder: Path) -> dict[str, str]:
        """The environment of a client program with settings of its own and nothing of this process's."""
        prefixes = ("ZENML", "MLFLOW", "AWS")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return kept | {
            "HOME": str(folder),
            "ZENML_CONFIG_PATH": str(folder / "zenml"),
            "ZENML_ANALYTICS_OPT_IN": "false",
            "ZENML_LOGGING_COLORS_DISABLED": "true",
            "PYTHONPATH": os.pathsep.join(paths),
        }
