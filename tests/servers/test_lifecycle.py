"""Up, down, killed and up again: what runs, as whom, what others on the machine see of it, and what is kept."""

import os
import signal
import stat
import subprocess
import time

import psutil
import psycopg2
import pymysql
import pytest
import requests

from infra.servers import postgres, processes, s3, zenml_server
from infra.servers.home import HOST, is_free
from infra.servers.services import SERVICES
from tests.servers.running import Servers

pytestmark = pytest.mark.servers


def members(servers: Servers) -> dict[str, list[psutil.Process]]:
    return {name: processes.members(servers.home.folder / name) for name in SERVICES}


def leave_a_trace(servers: Servers, text: str) -> None:
    """Write something through every server, as their clients do."""
    home = servers.home
    s3.client(home, "client").put_object(Bucket=s3.ZENML_BUCKET, Key=f"trace/{text}", Body=text.encode())
    login = ("admin", home.secret("mlflow.admin"))
    address = f"http://{HOST}:{home.port('mlflow')}/api/2.0"
    made = requests.post(
        f"{address}/mlflow/registered-models/create", json={"name": text}, auth=login, timeout=60
    )
    assert made.ok, made.text
    put = requests.put(
        f"{address}/mlflow-artifacts/artifacts/trace/{text}", data=text, auth=login, timeout=60
    )
    assert put.ok, put.text
    bearer = {"Authorization": f"Bearer {zenml_server.login(home)}"}
    address = f"http://{HOST}:{home.port('zenml')}/api/v1/service_accounts"
    made = requests.post(address, json={"name": text, "active": True}, headers=bearer, timeout=60)
    assert made.ok, made.text


def assert_the_trace_is_there(servers: Servers, text: str) -> None:
    home = servers.home
    store = s3.client(home, "client")
    assert store.get_object(Bucket=s3.ZENML_BUCKET, Key=f"trace/{text}")["Body"].read() == text.encode()
    login = ("admin", home.secret("mlflow.admin"))
    address = f"http://{HOST}:{home.port('mlflow')}/api/2.0"
    parameters = {"name": text}
    found = requests.get(f"{address}/mlflow/registered-models/get", params=parameters, auth=login, timeout=60)
    assert found.json()["registered_model"]["name"] == text
    got = requests.get(f"{address}/mlflow-artifacts/artifacts/trace/{text}", auth=login, timeout=60)
    assert got.text == text
    # By the API key, which must have stayed valid.
    form = {"password": zenml_server.api_key(home)}
    address = f"http://{HOST}:{home.port('zenml')}/api/v1"
    token = requests.post(f"{address}/login", data=form, timeout=60).json()["access_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    found = requests.get(f"{address}/service_accounts", params=parameters, headers=bearer, timeout=60)
    assert [one["name"] for one in found.json()["items"]] == [text]


def test_up_again_changes_nothing(servers):
    before = {name: servers.home.record(name) for name in SERVICES}
    key = servers.secrets["zenml.api_key"]
    assert servers.command("up").count("runs already") == len(SERVICES)
    assert {name: servers.home.record(name) for name in SERVICES} == before
    assert servers.secrets["zenml.api_key"] == key
    assert servers.command("status").count("running") == len(SERVICES)


def test_no_secret_is_seen_by_others_nor_logged(servers):
    secrets = servers.secrets
    assert len(secrets) >= 15
    running = members(servers)
    assert all(running.values())
    lines = [word for found in running.values() for one in found for word in one.cmdline()]
    logs = [servers.home.log(name) for name in SERVICES]
    for name, secret in secrets.items():
        assert not any(secret in line for line in lines), f"{name} is on a command line"
        for log in logs:
            assert secret not in log.read_text(errors="replace"), f"{name} is in {log.name}"
    for path in [servers.home.folder / "secrets.json", servers.home.folder / "pgpass", *logs]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    # Whatever holds a secret lies in a file or a folder that its owner alone may open.
    for folder in ("s3", "mlflow", "zenml", "postgres", "mariadb"):
        assert stat.S_IMODE((servers.home.folder / folder).stat().st_mode) == 0o700, folder
    assert not (servers.home.folder / "mariadb" / "init.sql").exists()


def test_databases_do_not_run_as_root_and_everything_listens_here_alone(servers):
    running = members(servers)
    for name in ("postgres", "mariadb"):
        assert {one.uids().effective for one in running[name]} != {0}
        assert 0 not in {one.uids().effective for one in running[name]}
    numbers = {one.pid for found in running.values() for one in found}
    listening = [
        one
        for one in psutil.net_connections("inet")
        if one.pid in numbers and one.status == psutil.CONN_LISTEN
    ]
    assert {one.laddr.ip for one in listening} == {HOST}
    assert {one.laddr.port for one in listening} == set(servers.ports.values())


def test_each_server_has_a_group_of_its_own(servers):
    groups = {os.getpgid(servers.home.record(name)["pid"]) for name in SERVICES}
    assert groups == {servers.home.record(name)["pid"] for name in SERVICES}
    assert os.getpgid(0) not in groups


def test_killed_servers_come_up_again_with_their_data(servers):
    leave_a_trace(servers, "before-the-kill")
    for found in members(servers).values():
        for one in found:
            one.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(members(servers).values()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    said = servers.command("status", check=False)
    assert said.count("died") == len(SERVICES)
    before = servers.ports
    servers.command("up")
    assert servers.ports == before
    assert_the_trace_is_there(servers, "before-the-kill")


def test_a_killed_parent_leaves_no_child_that_keeps_up_from_working(servers):
    """The postmaster is gone, its backends may live on for a moment with the data in their hands."""
    connection = psycopg2.connect(
        host=HOST, port=servers.home.port("postgres"), user=postgres.USER, dbname="mlflow",
        password=servers.home.secret("postgres.mlflow"),
    )  # fmt: skip
    os.kill(servers.home.record("postgres")["pid"], signal.SIGKILL)
    servers.command("up", "mlflow")
    connection.close()
    login = ("admin", servers.home.secret("mlflow.admin"))
    address = f"http://{HOST}:{servers.home.port('mlflow')}/api/2.0/mlflow/registered-models/search"
    assert requests.get(address, auth=login, timeout=60).ok


def test_a_postmaster_that_nobody_reaps_keeps_nothing_from_starting(servers):
    """In a container whose first process does not reap, what was killed stays in the list of processes."""
    servers.command("down")
    dead = subprocess.Popen(["true"])
    while psutil.Process(dead.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    lock = servers.home.folder / "postgres" / "data" / "postmaster.pid"
    lock.write_text(f"{dead.pid}\n{lock.parent}\n0\n{servers.home.port('postgres')}\n\n{HOST}\n")
    servers.command("up")
    assert lock.read_text().splitlines()[0] != str(dead.pid)
    dead.wait()


def test_down_leaves_no_process_and_no_port_and_the_data_stay(servers):
    leave_a_trace(servers, "before-down")
    ports = servers.ports
    numbers = [one.pid for found in members(servers).values() for one in found]
    said = servers.command("down")
    assert said.count(": stopped") == len(SERVICES)
    assert not any(members(servers).values())
    for number in numbers:
        assert not psutil.pid_exists(number) or psutil.Process(number).status() == psutil.STATUS_ZOMBIE
    assert all(is_free(port) for port in ports.values())
    assert servers.command("down").count("was not running") == len(SERVICES)
    with pytest.raises(pymysql.err.OperationalError):
        pymysql.connect(host=HOST, port=ports["mariadb"], user="root", password="")
    servers.command("up")
    assert_the_trace_is_there(servers, "before-down")
