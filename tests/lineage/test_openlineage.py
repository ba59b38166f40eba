import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from regrow.lineage import attest, describe_value
from regrow.lineage.openlineage import emit
from tests.lineage.made import merged_model


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


def test_a_catalogue_that_is_away_costs_a_warning_and_not_the_stage(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__RETRY__TOTAL", "0")
    statement = attest("prune", [describe_value("checkpoint", "a" * 64)], [], parameters={})
    with caplog.at_level(logging.WARNING, logger="regrow"):
        assert not emit(statement)
    assert "the event of stage prune was not sent" in caplog.text


def test_nothing_is_sent_without_configuration(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENLINEAGE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    assert not emit(attest("prune", [describe_value("checkpoint", "a" * 64)], [], parameters={}))
