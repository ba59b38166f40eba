"""The ZenML server: records in MariaDB, people log in with passwords, programs with the key of a service account."""

import sys
from typing import Any

from infra.servers import mariadb, programs
from infra.servers.home import Home
from regrow.errors import RegrowError

ADMIN = "admin"
SERVICE_ACCOUNT = "regrow"
_KEY = "zenml.api_key"
# Seconds for one answer: the first ones import the server's code, on a machine that starts other servers beside it.
_PATIENCE = 120


def url(home: Home) -> str:
    """Return the address of the server and its dashboard."""
    return f"http://{home.host}:{home.port('zenml')}"


def prepare(home: Home) -> None:
    """Make the folder of the server's own settings."""
    programs.need_module("zenml", "regrow[pipeline]")
    home.place("zenml").chmod(0o700)


def environment(home: Home) -> dict[str, str]:
    """Return what the server needs to know, secrets included."""
    return {
        "ZENML_CONFIG_PATH": str(home.place("zenml") / "config"),
        "ZENML_STORE_TYPE": "sql",
        "ZENML_STORE_URL": mariadb.database_uri(home),
        "ZENML_STORE_BACKUP_STRATEGY": "disabled",
        "ZENML_SECRETS_STORE_TYPE": "sql",
        "ZENML_SECRETS_STORE_ENCRYPTION_KEY": home.secret("zenml.encryption"),
        "ZENML_SERVER_DEPLOYMENT_TYPE": "other",
        "ZENML_SERVER_AUTH_SCHEME": "OAUTH2_PASSWORD_BEARER",
        "ZENML_SERVER_JWT_SECRET_KEY": home.secret("zenml.jwt"),
        # Active from the first start, with this administrator: nobody else can come first and claim it.
        "ZENML_SERVER_AUTO_ACTIVATE": "true",
        "ZENML_DEFAULT_USER_NAME": ADMIN,
        "ZENML_DEFAULT_USER_PASSWORD": home.secret("zenml.admin"),
        "ZENML_SERVER_DISPLAY_ANNOUNCEMENTS": "false",
        "ZENML_SERVER_DISPLAY_UPDATES": "false",
        "ZENML_ANALYTICS_OPT_IN": "false",
    }


def command(home: Home) -> list[str]:
    """Return the command of the server."""
    return [
        sys.executable, "-m", "uvicorn", "zenml.zen_server.zen_server_api:app", "--host", home.host,
        "--port", str(home.port("zenml")), "--log-level", "warning",
    ]  # fmt: skip


def probe(home: Home) -> None:
    """Log in; raises until the server is there and active."""
    login(home)


def login(home: Home) -> str:
    """Return a token of the administrator."""
    form = {"username": ADMIN, "password": home.secret("zenml.admin")}
    return str(_ask("POST", f"{url(home)}/api/v1/login", data=form)["access_token"])


def finish(home: Home) -> None:
    """Make the service account and its key, unless there is a key that works."""
    import requests

    key = home.known_secret(_KEY)
    if key is not None:
        answer = requests.post(f"{url(home)}/api/v1/login", data={"password": key}, timeout=_PATIENCE)
        if answer.ok:
            return
    bearer = {"Authorization": f"Bearer {login(home)}"}
    # Else the dashboard first asks this made-up administrator for a name and a mail address.
    answers = {"email_opted_in": False, "user_metadata": {"finished_onboarding_survey": True}}
    _ask("PUT", f"{url(home)}/api/v1/current-user", headers=bearer, json=answers)
    accounts = f"{url(home)}/api/v1/service_accounts"
    found = _ask("GET", accounts, headers=bearer, params={"name": SERVICE_ACCOUNT})["items"]
    if not found:
        wanted = {"name": SERVICE_ACCOUNT, "active": True, "description": "Clients of the regrow pipeline"}
        found = [_ask("POST", accounts, headers=bearer, json=wanted)]
    keys = f"{accounts}/{found[0]['id']}/api_keys"
    for old in _ask("GET", keys, headers=bearer)["items"]:
        _ask("DELETE", f"{keys}/{old['id']}", headers=bearer)
    made = _ask("POST", keys, headers=bearer, json={"name": "clients"})
    home.keep_secret(_KEY, made["body"]["key"])


def api_key(home: Home) -> str:
    """Return the key of the service account.

    Raises:
        RegrowError: the server was never up.
    """
    key = home.known_secret(_KEY)
    if key is None:
        raise RegrowError("the ZenML server has no service account yet: python -m infra.servers up zenml")
    return key


def _ask(verb: str, address: str, **options: Any) -> Any:
    import requests

    try:
        answer = requests.request(verb, address, timeout=_PATIENCE, **options)
    except requests.RequestException as error:
        raise RegrowError(f"ZenML at {address} did not answer: {error}") from None
    if not answer.ok:
        raise RegrowError(f"ZenML at {address} answered {answer.status_code}: {answer.text[:300]}")
    return answer.json()
