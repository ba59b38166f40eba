"""The MLflow tracking server: records in PostgreSQL, artifacts through it on S3, users with passwords."""

import sys

from infra.servers import postgres, programs, s3
from infra.servers.home import HOST, Home, write_private

ADMIN = "admin"


def url(home: Home) -> str:
    """Return the tracking URI."""
    return f"http://{home.host}:{home.port('mlflow')}"


def prepare(home: Home) -> None:
    """Write the server's settings for logins."""
    programs.need_module("mlflow", "regrow[pipeline]")
    programs.need_module("flask_wtf", "mlflow[auth]")
    home.place("mlflow").chmod(0o700)
    settings = {
        # Who is let in may read; who made something may change it; rights on anything else are given.
        "default_permission": "READ",
        "database_uri": postgres.database_uri(home, "mlflow_auth"),
        "admin_username": ADMIN,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        # Else every request computes the password's slow hash. A change of password counts at once for the
        # process that makes it, and there is one process.
        "auth_cache_ttl_seconds": "60",
    }
    lines = ["[mlflow]", *(f"{name} = {value}" for name, value in settings.items())]
    write_private(home.place("mlflow") / "auth.ini", "\n".join(lines) + "\n")


def environment(home: Home) -> dict[str, str]:
    """Return what the server needs to know, secrets included."""
    access, secret = s3.keys(home, "mlflow")
    return {
        "MLFLOW_BACKEND_STORE_URI": postgres.database_uri(home, "mlflow"),
        "PGPASSFILE": postgres.password_file(home),
        "MLFLOW_AUTH_CONFIG_PATH": str(home.place("mlflow") / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": home.secret("mlflow.admin"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": home.secret("mlflow.csrf"),
        "MLFLOW_S3_ENDPOINT_URL": s3.url(home),
        "AWS_ACCESS_KEY_ID": access,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": s3.REGION,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def command(home: Home) -> list[str]:
    """Return the command of the server."""
    return [
        sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--host", home.host,
        "--port", str(home.port("mlflow")), "--workers", "1", "--serve-artifacts", *_names(home),
        "--artifacts-destination", f"s3://{s3.MLFLOW_BUCKET}/artifacts",
    ]  # fmt: skip


def _names(home: Home) -> list[str]:
    # On the loopback address MLflow's own list of names that a request may ask for is right. Elsewhere it lets
    # in every private address and no public one.
    if home.host == HOST:
        return []
    return ["--allowed-hosts", f"{home.host}:{home.port('mlflow')}"]


def probe(home: Home) -> None:
    """Ask for the registered models as the administrator; raises until there is an answer."""
    import requests

    answer = requests.get(
        f"{url(home)}/api/2.0/mlflow/registered-models/search",
        auth=(ADMIN, home.secret("mlflow.admin")),
        timeout=20,
    )
    answer.raise_for_status()
