"""MariaDB for the ZenML server."""

import shutil
import subprocess
from pathlib import Path

from infra.servers import programs
from infra.servers.home import HOST, Home, write_private
from regrow.errors import RegrowError

PACKAGE = "mariadb-server"
USER = "zenml"
DATABASE = "zenml"


def url(home: Home) -> str:
    """Return the address, without a password."""
    return f"mysql://{HOST}:{home.port('mariadb')}"


def database_uri(home: Home) -> str:
    """Return what ZenML's server takes, password included: for its environment only."""
    return f"mysql://{USER}:{home.secret('mariadb.zenml')}@{HOST}:{home.port('mariadb')}/{DATABASE}"


def prepare(home: Home) -> None:
    """Make the data folder where there is none, and the statements of the next start."""
    install = programs.find("mariadb-install-db", PACKAGE)
    server = programs.find("mariadbd", PACKAGE)
    programs.need_module("pymysql", "zenml[server]")
    owner = programs.account("mysql")
    folder = home.place("mariadb")
    programs.give(folder, owner)
    if not (folder / "data").exists():
        # Under another name until it is whole: a killed first start leaves nothing that looks like a database.
        shutil.rmtree(folder / "new", ignore_errors=True)
        base = Path(server).parent.parent
        done = subprocess.run(
            [
                install, "--no-defaults", f"--basedir={base}", f"--datadir={folder / 'new'}", "--skip-test-db",
                "--auth-root-authentication-method=normal", "--skip-name-resolve",
            ],
            cwd=folder, capture_output=True, text=True, check=False, **(owner.options if owner else {}),
        )  # fmt: skip
        if done.returncode != 0:
            raise RegrowError(f"mariadb-install-db failed in {folder}: {(done.stderr + done.stdout).strip()}")
        (folder / "new").rename(folder / "data")
    # Read before the first connection is taken: root without a password is never reachable.
    statements = [
        # A new data folder has a nameless user, and a root for each name of this machine; none has a password.
        "DELETE FROM mysql.global_priv WHERE User = '' OR (User = 'root' AND Host <> 'localhost')",
        "FLUSH PRIVILEGES",
        f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{home.secret('mariadb.root')}'",
        f"CREATE DATABASE IF NOT EXISTS {DATABASE} CHARACTER SET utf8mb4",
        f"CREATE USER IF NOT EXISTS '{USER}'@'%'",
        f"ALTER USER '{USER}'@'%' IDENTIFIED BY '{home.secret('mariadb.zenml')}'",
        f"GRANT ALL ON {DATABASE}.* TO '{USER}'@'%'",
    ]
    text = "".join(f"{one};\n" for one in statements)
    write_private(folder / "init.sql", text, (owner.user, owner.group) if owner else None)


def command(home: Home) -> list[str]:
    """Return the command of the server."""
    folder = home.place("mariadb")
    return [
        programs.find("mariadbd", PACKAGE), "--no-defaults", f"--datadir={folder / 'data'}",
        f"--init-file={folder / 'init.sql'}", f"--bind-address={HOST}", f"--port={home.port('mariadb')}",
        # Relative to the data folder: a socket's path may have 107 characters at most.
        "--socket=mariadb.sock", "--pid-file=mariadb.pid", "--skip-name-resolve", "--skip-log-bin",
        "--innodb-buffer-pool-size=96M", "--character-set-server=utf8mb4",
    ]  # fmt: skip


def probe(home: Home) -> None:
    """Connect as ZenML's server will; raises until the server takes connections."""
    import pymysql

    connection = pymysql.connect(
        host=HOST, port=home.port("mariadb"), user=USER, password=home.secret("mariadb.zenml"), database=DATABASE,
        connect_timeout=2,
    )  # fmt: skip
    connection.close()
    (home.place("mariadb") / "init.sql").unlink(missing_ok=True)
