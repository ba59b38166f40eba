"""The two web pages in a headless Chromium, behind their logins: a registered version, and a run with its lineage.

MLflow's browser login is the header that a browser sends once somebody has typed the password; ZenML's form is filled
in. ZenML's free dashboard has no page for models (it says so): a model's version and its tags come from its API,
and what the dashboard shows of it are the run, its graph, its artifacts and the page among them.
"""

import base64
import time

import mlflow
import pytest
import requests

from infra.servers import zenml_server
from regrow.registry import RegistrySpec, register
from tests.servers.browser import CHROMIUM, Browser
from tests.servers.two_steps import HEADING

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)"),
]


@pytest.fixture
def browser(tmp_path):
    with Browser(tmp_path) as one:
        yield one


def test_mlflow_shows_the_version_its_alias_and_its_tags(servers, browser, tiny, monkeypatch, tmp_path):
    variables = servers.variables
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, variables[name])
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(variables["MLFLOW_TRACKING_URI"])
    try:
        tags = {"regrow.base": "base-of-the-page", "regrow.plan": "plan-of-the-page"}
        done = register(tiny, RegistrySpec(name="shown"), tags=tags, metrics={})
    finally:
        mlflow.set_tracking_uri(before)
    words = f"{variables['MLFLOW_TRACKING_USERNAME']}:{variables['MLFLOW_TRACKING_PASSWORD']}".encode()
    login = {"Authorization": f"Basic {base64.b64encode(words).decode()}"}
    browser.send("Network.enable")
    browser.send("Network.setExtraHTTPHeaders", headers=login)
    browser.go(f"{done.tracking_uri}/#/models/shown/versions/{done.version}")
    text = browser.wait_for(
        "shown", f"Version {done.version}", "regrow.base", "base-of-the-page", "challenger"
    )
    for word in ("regrow.digest", tiny.digest[:12], "regrow.plan", "plan-of-the-page"):
        assert word in text
    browser.picture(tmp_path / "mlflow.png")


def test_mlflow_shows_nothing_without_a_login(servers, browser):
    address = servers.variables["MLFLOW_TRACKING_URI"]
    browser.go(f"{address}/#/models")
    # Newer browsers show a page of their own instead of the server's words.
    deadline = time.monotonic() + 60
    while (
        "not authenticated" not in (browser.text or "")
        and browser.run("location.protocol") != "chrome-error:"
    ):
        assert time.monotonic() < deadline, browser.text
        time.sleep(0.5)
    assert "shown" not in (browser.text or "")
    assert requests.get(address, timeout=60).status_code == 401


def test_zenml_shows_the_run_its_graph_and_what_came_out_after_a_login(servers, browser, run, tmp_path):
    address = servers.variables["ZENML_STORE_URL"]
    browser.go(f"{address}/projects/default/runs/{run['run']}")
    browser.wait_for("Log in to your account")  # nothing before that
    browser.fill("input[name=username]", "admin")
    browser.fill("input[name=password]", servers.secrets["zenml.admin"])
    browser.press("Login")
    # The graph: both steps and what they made.
    browser.wait_for("prune", "tune", "pruned", "tuned", "lineage")
    browser.picture(tmp_path / "run.png")
    browser.press("tuned")
    browser.wait_for(run["uri"][:40])
    browser.go(
        f"{address}/projects/default/runs/{run['run']}?page"
    )  # without what was opened beside the graph
    browser.wait_for("prune", "tune", "pruned", "tuned", "lineage")
    browser.press("lineage")
    browser.press("Visualization")
    browser.press("Load Preview")
    # The page among the artifacts, in a frame whose inside the dashboard keeps from everybody's scripts.
    frames = "[...document.querySelectorAll('iframe')].map(one => one.srcdoc || one.src).join()"
    deadline = time.monotonic() + 120
    while HEADING not in (shown := str(browser.run(frames))):
        assert time.monotonic() < deadline, shown
        time.sleep(0.5)
    browser.picture(tmp_path / "lineage.png")
    browser.go(f"{address}/projects/default/models")
    assert "ZenML Pro" in browser.wait_for("ZenML Pro")


def test_zenmls_api_has_the_models_version_with_its_tags_and_facts(servers, run):
    address = f"{servers.variables['ZENML_STORE_URL']}/api/v1"
    bearer = {"Authorization": f"Bearer {zenml_server.login(servers.home)}"}
    found = requests.get(
        f"{address}/model_versions/{run['version']}?hydrate=true", headers=bearer, timeout=60
    )
    version = found.json()
    assert version["body"]["model"]["name"] == run["model"]
    assert [tag["name"] for tag in version["resources"]["tags"]] == ["regrow"]
    assert version["metadata"]["run_metadata"]["regrow.digest"] == run["digest"]
