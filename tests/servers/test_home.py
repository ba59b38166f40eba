"""What can be said without any server: folders, ports, secrets, missing programs."""

import os
import socket
import stat
import subprocess
import sys

import pytest

from infra.servers import __main__ as command_line
from infra.servers import processes, programs
from infra.servers.home import Home, is_free
from infra.servers.services import SERVICES, up
from regrow.errors import InputError, RegrowError


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "servers")
    made.make()
    return made


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_secret_is_random_kept_and_readable_by_its_owner_alone(home, tmp_path):
    first = home.secret("one")
    assert len(first) >= 32
    assert home.secret("two") != first
    assert Home(home.folder).secret("one") == first
    assert mode(home.folder / "secrets.json") == 0o600
    other = Home(tmp_path / "other")
    other.make()
    assert other.secret("one") != first


def test_ports_are_free_different_and_stay(home):
    ports = {name: home.port(name) for name in ("a", "b", "c")}
    assert len(set(ports.values())) == 3
    assert all(is_free(port) for port in ports.values())
    assert {name: Home(home.folder).port(name) for name in ports} == ports


def test_a_second_up_does_not_interfere_with_the_first(home):
    with home.lock(), pytest.raises(InputError, match="another up or down"), Home(home.folder).lock():
        pass


def test_a_missing_program_names_its_debian_package(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        InputError, match=r"no-such-server is not on this machine: apt-get install that-package"
    ):
        programs.find("no-such-server", "that-package")
    with pytest.raises(InputError, match=r"pip install 'mlflow\[auth\]'"):
        programs.need_module("no_such_module", "mlflow[auth]")


def test_a_missing_package_is_said_before_anything_starts(home, monkeypatch, capsys):
    def nowhere(name, package):
        raise InputError(f"{name} is not on this machine: apt-get install {package}")

    monkeypatch.setattr(programs, "find", nowhere)
    assert command_line.main(["up", "zenml", "--folder", str(home.folder)]) == 2
    assert "apt-get install mariadb-server" in capsys.readouterr().err
    assert home.record("mariadb") is None


def test_a_broken_state_file_is_named(home):
    (home.folder / "state.json").write_text("{")
    with pytest.raises(InputError, match=r"state\.json: no JSON"):
        home.record("s3")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes who a database runs as")
def test_root_runs_a_database_as_somebody_else_who_must_reach_the_folder(tmp_path):
    owner = programs.account("no-such-user")
    assert owner is not None
    assert owner.user != 0
    (tmp_path / "closed").mkdir(mode=0o700)
    with pytest.raises(InputError, match=f"{owner.name}.*may not pass through"):
        programs.give(tmp_path / "closed" / "data", owner)


def test_a_server_that_stops_while_it_starts_shows_its_last_words_and_log(tmp_path):
    log = tmp_path / "one.log"
    words = [sys.executable, "-c", "print('the disk is full')"]
    record = processes.start(words, folder=tmp_path, log=log, environment={})

    def never():
        raise ConnectionError("refused")

    with pytest.raises(RegrowError, match=r"(?s)one\.log ends:.*the disk is full"):
        processes.wait_ready("One", record, log, never, 30)
    assert mode(log) == 0o600


def test_a_server_that_never_answers_says_how_long_it_was_waited_for(tmp_path):
    log = tmp_path / "one.log"
    sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
    record = processes.start(sleeping, folder=tmp_path, log=log, environment={})

    def never():
        raise ConnectionError("refused")

    with pytest.raises(RegrowError, match=r"not ready within 1 s \(refused\)"):
        processes.wait_ready("One", record, log, never, 1)
    processes.stop(record, tmp_path, how=15)
    assert not processes.is_alive(record)


def test_children_of_a_killed_server_are_found_and_stopped(tmp_path):
    program = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time; "
        "signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)'], start_new_session=True)\n"
        "time.sleep(600)\n"
    )
    log = tmp_path / "one.log"
    record = processes.start([sys.executable, "-c", program], folder=tmp_path, log=log, environment={})
    while "1" not in log.read_text():
        assert processes.is_alive(record)
    assert len(processes.members(tmp_path)) == 2
    os.kill(record["pid"], 9)
    os.waitpid(record["pid"], 0)
    assert not processes.is_alive(record)
    assert len(processes.members(tmp_path)) == 1
    processes.stop(record, tmp_path, how=15, seconds=1)
    assert processes.members(tmp_path) == []


def test_a_process_with_the_same_number_is_not_taken_for_the_server(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        record = {"pid": other.pid, "created": 1.0}
        assert not processes.is_alive(record)
        processes.stop(record, tmp_path, how=15)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_port_that_was_taken_over_is_said_and_nothing_starts(home, monkeypatch):
    service = SERVICES["s3"]
    programs.find_weed()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", home.port("s3.filer")))
        taken.listen()
        with pytest.raises(
            InputError, match=rf"port {home.port('s3.filer')}.*taken.*remove 's3\.filer' from"
        ):
            up(home, ["s3"])
    assert home.record("s3") is None
    assert processes.members(home.folder / service.name) == []


def test_env_and_status_and_down_before_any_up(tmp_path, capsys):
    folder = ["--folder", str(tmp_path / "none")]
    assert command_line.main(["env", *folder]) == 2
    assert "was never up there" in capsys.readouterr().err
    assert command_line.main(["status", *folder]) == 1
    assert capsys.readouterr().out.count("stopped") == 5
    assert command_line.main(["down", *folder]) == 0
    assert "no servers there" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()
