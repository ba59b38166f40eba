"""PostgreSQL for the MLflow server: one database for its records, one for its users."""

import shutil
import subprocess
from pathlib import Path

import psutil

from infra.servers import programs
from infra.servers.home import HOST, Home, write_private
from regrow.errors import RegrowError

PACKAGE = "postgresql"
ADMIN = "regrow_admin"
USER = "mlflow"
DATABASES = ("mlflow", "mlflow_auth")


def url(home: Home) -> str:
    """Return the address, without a password."""
    return f"postgresql://{HOST}:{home.port('postgres')}"


def database_uri(home: Home, name: str) -> str:
    """Return what MLflow takes; the password comes from the file that `password_file` wrote."""
    return f"postgresql+psycopg2://{USER}@{HOST}:{home.port('postgres')}/{name}"


def password_file(home: Home) -> str:
    """Write the file that PGPASSFILE names and return its path."""
    path = home.folder / "pgpass"
    write_private(path, f"{HOST}:{home.port('postgres')}:*:{USER}:{home.secret('postgres.mlflow')}\n")
    return str(path)


def prepare(home: Home) -> None:
    """Make the database cluster where there is none."""
    initdb = programs.find("initdb", PACKAGE)
    programs.find("postgres", PACKAGE)
    programs.need_module("psycopg2", "psycopg2-binary")
    owner = programs.account("postgres")
    folder = home.place("postgres")
    programs.give(folder, owner)
    if (folder / "data").exists():
        _forget_the_dead(folder / "data" / "postmaster.pid")
        return
    # Under another name until it is whole: a killed first start leaves nothing that looks like a cluster.
    shutil.rmtree(folder / "new", ignore_errors=True)
    password = folder / "password"
    write_private(
        password, home.secret("postgres.admin") + "\n", (owner.user, owner.group) if owner else None
    )
    try:
        done = subprocess.run(
            [
                initdb, "--pgdata=new", f"--username={ADMIN}", "--pwfile=password", "--auth=scram-sha-256",
                "--encoding=UTF8", "--locale=C",
            ],
            cwd=folder, capture_output=True, text=True, check=False, **(owner.options if owner else {}),
        )  # fmt: skip
    finally:
        password.unlink(missing_ok=True)
    if done.returncode != 0:
        raise RegrowError(f"initdb failed in {folder}: {done.stderr.strip() or done.stdout.strip()}")
    (folder / "new").rename(folder / "data")


def _forget_the_dead(lock: Path) -> None:
    """Remove the lock of a server that was killed and whose parent has not asked for its end.

    PostgreSQL takes it for a living one; in a container whose first process does not reap, it stays for ever.
    """
    try:
        number = int(lock.read_text().splitlines()[0])
        dead = psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    except (OSError, ValueError, IndexError, psutil.NoSuchProcess):
        return  # no lock, or one that PostgreSQL judges by itself
    if dead:
        lock.unlink(missing_ok=True)


def command(home: Home) -> list[str]:
    """Return the command of the server."""
    settings = {
        "listen_addresses": HOST,
        "unix_socket_directories": "",  # a socket's path may have 107 characters at most
        "shared_buffers": "64MB",
        "max_connections": "60",
    }
    words = [programs.find("postgres", PACKAGE), "-D", "data", "-p", str(home.port("postgres"))]
    for name, value in settings.items():
        words += ["-c", f"{name}={value}"]
    return words


def probe(home: Home) -> None:
    """Make MLflow's user and databases where they are missing; raises until the server takes connections."""
    import psycopg2
    from psycopg2 import sql

    connection = psycopg2.connect(
        host=HOST, port=home.port("postgres"), user=ADMIN, password=home.secret("postgres.admin"),
        dbname="postgres", connect_timeout=2,
    )  # fmt: skip
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (USER,))
            verb = sql.SQL("ALTER" if cursor.fetchone() else "CREATE")
            role = sql.SQL("{} ROLE {} LOGIN PASSWORD %s").format(verb, sql.Identifier(USER))
            cursor.execute(role, (home.secret("postgres.mlflow"),))
            for name in DATABASES:
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
                if cursor.fetchone() is None:
                    names = sql.Identifier(name), sql.Identifier(USER)
                    cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(*names))
    finally:
        connection.close()
