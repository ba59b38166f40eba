"""Servers that listen where others than this machine reach them."""

import psutil
import pytest

from infra.servers import __main__ as command_line
from infra.servers import mlflow_server, s3, zenml_server
from infra.servers.home import HOST, Home
from infra.servers.services import listen_at
from regrow.errors import InputError
from tests.servers.running import Servers, missing

OTHER = "127.0.0.2"  # an address of every Linux machine's own, and not the usual one


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "servers")
    made.make()
    return made


def test_the_address_is_kept_and_stands_in_every_url_but_the_databases(home):
    assert home.host == HOST
    listen_at(home, OTHER)
    again = Home(home.folder)
    assert again.host == OTHER
    assert all(f"//{OTHER}:" in part.url(again) for part in (s3, mlflow_server, zenml_server))
    assert OTHER in " ".join(
        mlflow_server.command(again)[mlflow_server.command(again).index("--allowed-hosts") :]
    )


@pytest.mark.parametrize("address", ["203.0.113.9", "0.0.0.0", "here", "::1"])
def test_what_is_no_address_of_this_machine_is_refused(home, capsys, address):
    assert command_line.main(["up", "s3", "--host", address, "--folder", str(home.folder)]) == 2
    assert f"--host {address}: no address of this machine" in capsys.readouterr().err
    assert home.host == HOST


def test_servers_that_run_are_not_moved(home):
    running = psutil.Process()
    home.keep_record("s3", {"pid": running.pid, "created": running.create_time()})
    with pytest.raises(InputError, match=r"s3 run and listen at 127\.0\.0\.1; stop them first"):
        listen_at(home, OTHER)


@pytest.mark.servers
def test_the_store_answers_at_the_other_address_and_its_inner_parts_do_not(tmp_path):
    if lack := missing():
        pytest.skip(lack)
    servers = Servers(tmp_path / "servers")
    servers.command("up", "s3", "--host", OTHER)
    try:
        names = {one["Name"] for one in s3.client(servers.home).list_buckets()["Buckets"]}
        assert names == {"mlflow", "zenml"}
        pids = {servers.home.record("s3")["pid"]}
        listening = {
            (one.laddr.ip, one.laddr.port)
            for one in psutil.net_connections("tcp")
            if one.pid in pids and one.status == psutil.CONN_LISTEN
        }
        outside = {port for address, port in listening if address == OTHER}
        assert outside == {servers.ports["s3"], servers.ports["s3.grpc"]}
        assert {address for address, _ in listening} <= {OTHER, HOST}
    finally:
        servers.command("down")
