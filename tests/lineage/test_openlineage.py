import json
import logging
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from regrow.lineage import attest, describe_value, openlineage
from regrow.lineage.openlineage import emit
from tests.lineage.made import merged_model


@pytest.fixture(autouse=True)
def nothing_failed_yet(monkeypatch):
    """Each test is a process of its own, as far as `emit` knows."""
    monkeypatch.setattr(openlineage, "_failed", threading.Event())


@pytest.fixture
def catalogue(monkeypatch):
    """A server that takes events as Marquez does, and the list of what it was sent."""
    events = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                import gzip

                body = gzip.decompress(body)
            events.append((self.path, json.loads(body)))
            self.send_response(201)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
    yield events
    server.shutdown()
    server.server_close()


def test_a_stage_is_a_run_with_a_start_and_an_end_and_datasets_named_by_digest(catalogue):
    statement = attest(
        "prune",
        [describe_value("checkpoint", "a" * 64)],
        [describe_value("checkpoint", "b" * 64)],
        parameters={},
    )
    assert emit(statement)
    assert [path for path, _ in catalogue] == ["/api/v1/lineage"] * 2
    start, end = (event for _, event in catalogue)
    assert [start["eventType"], end["eventType"]] == ["START", "COMPLETE"]
    assert start["run"]["runId"] == end["run"]["runId"]
    assert end["job"] == {"namespace": "regrow", "name": "prune"} | {"facets": end["job"].get("facets", {})}
    assert [one["name"] for one in end["inputs"]] == [f"checkpoint/{'b' * 64}"]
    assert [one["name"] for one in end["outputs"]] == [f"checkpoint/{'a' * 64}"]
    assert end["outputs"][0]["facets"]["version"]["datasetVersion"] == "a" * 64


def test_the_stages_tell_the_catalogue_and_one_s_output_is_the_next_one_s_input(catalogue, tmp_path):
    model = merged_model(tmp_path)
    ends = [event for _, event in catalogue if event["eventType"] == "COMPLETE"]
    assert [one["job"]["name"] for one in ends] == ["load_model", "prune", "prune", "merge"]
    load, prune, _, merge = ends
    assert load["outputs"][0]["name"] in {one["name"] for one in prune["inputs"]}
    assert prune["outputs"][0]["name"] in {one["name"] for one in merge["inputs"]}
    assert merge["outputs"][0]["name"] == f"checkpoint/{model.digest}"


def pruned():
    return attest("prune", [describe_value("checkpoint", "a" * 64)], [], parameters={})


def seconds_of(work) -> float:
    start = time.monotonic()
    assert not work()
    return time.monotonic() - start


def test_a_catalogue_that_is_away_costs_a_warning_and_not_the_stage(monkeypatch, caplog):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with caplog.at_level(logging.WARNING, logger="regrow"):
            # 9 s each with the client's own patience.
            assert seconds_of(lambda: emit(pruned()) or emit(pruned())) < 5
    assert caplog.text.count("the event of stage prune was not sent") == 1


@pytest.mark.parametrize("configured", ["OPENLINEAGE_URL", "openlineage.yml"])
def test_a_catalogue_that_does_not_answer_is_waited_for_once(monkeypatch, tmp_path, caplog, configured):
    monkeypatch.setattr(openlineage, "SECONDS", 0.3)
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent, caplog.at_level(logging.WARNING, logger="regrow"):
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        if configured == "OPENLINEAGE_URL":
            monkeypatch.setenv("OPENLINEAGE_URL", url)
        else:
            monkeypatch.delenv("OPENLINEAGE_URL", raising=False)
            (tmp_path / configured).write_text(f"transport: {{type: http, url: '{url}'}}\n")
        assert seconds_of(lambda: emit(pruned())) < 3
        assert seconds_of(lambda: emit(pruned())) < 0.2
    assert caplog.text.count("was not sent") == 1


def test_a_busy_catalogue_is_asked_again(monkeypatch):
    asked = []

    class Busy(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            self.send_response(503 if len(asked) == 1 else 201)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
        assert emit(pruned())
        server.shutdown()
    assert len(asked) == 3


def test_where_the_client_is_not_installed_one_warning_names_what_to_install(monkeypatch, tmp_path, caplog):
    import sys

    monkeypatch.setitem(sys.modules, "openlineage.client", None)  # as import sees a package that is not there
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING, logger="regrow"):
        merged_model(tmp_path)
    assert caplog.text.count("was not sent") == 1
    assert 'pip install "regrow[pipeline]" or openlineage-python' in caplog.text


def test_nothing_is_sent_without_configuration(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENLINEAGE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    assert not emit(attest("prune", [describe_value("checkpoint", "a" * 64)], [], parameters={}))
