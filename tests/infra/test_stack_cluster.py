"""What `regrow stack check` says of a cluster, asked from a made-up API server (tests/cluster has a real one)."""

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from kubernetes import client, config
from zenml.enums import StackComponentType

from infra.stacks import cluster
from infra.stacks.findings import Finding
from infra.stacks.schema import load
from infra.stacks.values import combine, sized

CLAIM = "/api/v1/namespaces/regrow/persistentvolumeclaims/regrow-cache"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"


class Api:
    """An API server: `objects` by path, and what nobody may do."""

    def __init__(self) -> None:
        self.objects: dict[str, Any] = {
            "/version/": dict.fromkeys(
                (
                    "major",
                    "minor",
                    "gitCommit",
                    "gitTreeState",
                    "buildDate",
                    "goVersion",
                    "compiler",
                    "platform",
                ),
                "1",
            )
            | {"gitVersion": "v1.34.0"},
            "/api/v1/namespaces/regrow": {},
            "/api/v1/namespaces/kubeflow": {},
            "/api/v1/namespaces/regrow/resourcequotas": {"items": []},
            "/api/v1/namespaces/kubeflow/resourcequotas": {"items": []},
            "/api/v1/nodes": {
                "items": [{"metadata": {"name": "n"}, "status": {"allocatable": {"nvidia.com/gpu": "1"}}}]
            },
            CLAIM: claim("Bound"),
            CLASSES: {"items": []},
        }
        for account in ("regrow-orchestrator", "regrow-step"):
            self.objects[f"/api/v1/namespaces/regrow/serviceaccounts/{account}"] = {}
        # (who, verb, resource); who is "" for the person that asks.
        self.denied: set[tuple[str, str, str]] = set()
        self.asked: set[tuple[str, str, str]] = set()
        self.url = ""

    def answer(self, path: str) -> tuple[int, Any]:
        if path in self.objects:
            return 200, self.objects[path]
        return 404, {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}

    def review(self, spec: dict[str, Any]) -> dict[str, Any]:
        one = spec["resourceAttributes"]
        resource = "/".join(filter(None, (one["resource"], one.get("subresource"))))
        key = (spec.get("user", "").rpartition(":")[2], one["verb"], resource)
        self.asked.add(key)
        return {"spec": spec, "status": {"allowed": key not in self.denied}}


def claim(phase: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "regrow-cache"}, "spec": spec, "status": {"phase": phase}}


def storage_class(name: str, *, default: bool = False) -> dict[str, Any]:
    marks = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
    return {"metadata": {"name": name, "annotations": marks}, "provisioner": "p"}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    made = Api()

    class Handler(BaseHTTPRequestHandler):
        def _send(self, status: int, body: Any) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self) -> None:
            self._send(*made.answer(self.path.partition("?")[0]))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(201, body | made.review(body["spec"]))

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    settings = client.Configuration(host=made.url)
    settings.no_proxy = "127.0.0.1"
    monkeypatch.setattr(config, "new_client_from_config", lambda **_: client.ApiClient(settings))
    yield made
    server.shutdown()
    server.server_close()


@pytest.fixture
def look(api: Api) -> Callable[..., list[Finding]]:
    """Look at the cluster of a stack, as its file has the components."""

    def looked(name: str = "kubernetes", pods: int = 1, **more: Any) -> list[Finding]:
        stack = sized(load(name), combine([("v", {"stages": {"fine_tune": {"pods": pods}}})]))
        parts = stack.components
        settings = {"kubernetes_context": "here", **parts.orchestrator.settings, **more}
        registered = SimpleNamespace(
            components={
                StackComponentType.ORCHESTRATOR: [
                    SimpleNamespace(name=name, flavor_name=parts.orchestrator.flavor, configuration=settings)
                ],
                StackComponentType.STEP_OPERATOR: [
                    SimpleNamespace(name=own, flavor_name=one.flavor, configuration=one.settings)
                    for own, one in parts.step_operators.items()
                ],
            }
        )
        return list(cluster.look(stack, registered))  # type: ignore[arg-type]

    return looked


def of(found: list[Finding], what: str, state: str) -> list[str]:
    return [one.said for one in found if (one.what, one.state) == (what, state)]


def test_a_cluster_that_has_everything(look):
    assert [one.line() for one in look() if one.state == "missing"] == []


def test_a_claim_without_a_class_where_there_is_no_default_one_is_missing(api, look):
    api.objects[CLAIM] = claim("Pending")
    api.objects[CLASSES] = {"items": [storage_class("gp2"), storage_class("efs")]}
    (said,) = of(look(), "volumes", "missing")
    assert (
        "regrow-cache is Pending: it names no class, and the cluster has no default one; it has efs, gp2"
        in said
    )


@pytest.mark.parametrize(
    ("spec", "classes"),
    [
        (
            {},
            [storage_class("gp2", default=True)],
        ),  # which the cluster gives it when the claim is looked at next
        ({"storageClassName": "efs"}, [storage_class("efs")]),  # waits for the first pod
        ({"storageClassName": ""}, []),  # a volume that somebody makes
        ({"volumeName": "mine"}, []),
    ],
)
def test_a_claim_that_may_still_get_its_volume_is_a_note(api, look, spec, classes):
    api.objects[CLAIM] = claim("Pending", **spec)
    api.objects[CLASSES] = {"items": classes}
    found = look()
    assert not of(found, "volumes", "missing")
    assert len(of(found, "volumes", "note")) == 1


def test_classes_that_may_not_be_looked_at_are_a_note(api, look):
    api.objects[CLAIM] = claim("Pending")
    del api.objects[CLASSES]
    (said,) = of(look(), "volumes", "note")
    assert "whether the cluster has a default one may not be looked at" in said


def granted() -> set[tuple[str, str, str]]:
    """What the manifests give the two accounts, and whoever starts runs."""
    found = set()
    for name, who in {"submitter": "", "orchestrator": "regrow-orchestrator", "step": "regrow-step"}.items():
        text = (Path(__file__).parents[2] / f"infra/kubernetes/base/{name}.yaml").read_text()
        rules = next(one for one in yaml.safe_load_all(text) if one["kind"] == "Role")["rules"]
        for rule in rules:
            found |= {(who, verb, resource) for verb in rule["verbs"] for resource in rule["resources"]}
    return found


def test_the_rights_that_are_asked_for_are_those_that_the_manifests_give(api, look):
    look()
    assert api.asked <= granted()
    # Not asked: schedules, single pods, and what some clusters want on top.
    rest = {one for one in granted() - api.asked if one[2] not in ("cronjobs", "jobs/finalizers")}
    assert rest == {("", "get", "pods"), ("regrow-step", "create", "services")}
    look(pods=2)
    assert api.asked <= granted()
    assert ("regrow-step", "create", "services") in api.asked


@pytest.mark.parametrize(
    ("who", "verb", "resource"),
    [
        ("", "create", "secrets"),
        ("", "patch", "secrets"),
        ("", "delete", "secrets"),
        ("", "list", "jobs"),
        ("", "delete", "jobs"),
        ("regrow-orchestrator", "delete", "secrets"),
        ("regrow-step", "create", "services"),
    ],
)
def test_a_right_that_a_run_needs_is_named(api, look, who, verb, resource):
    api.denied = {(who, verb, resource)}
    subject = f"the service account {who}" if who else "you"
    assert of(look(pods=2), "rights", "missing") == [f"{subject} may not: {verb} {resource}"]


def test_without_the_token_in_a_secret_none_is_asked_for(api, look):
    look(pass_zenml_token_as_secret=False)
    assert not [one for one in api.asked if one[2] == "secrets"]


def test_gpus_are_looked_for_where_the_stages_pods_go(api, look):
    (said,) = of(look(), "gpus", "ok")
    assert "step operator gpu: stages ask for 1 nvidia.com/gpu; 1 nodes with regrow/pool=gpu" in said
    api.objects["/api/v1/nodes"] = {"items": []}
    assert of(look(), "gpus", "missing")


@pytest.fixture
def kubeflow(api: Api) -> Api:
    """A cluster that has what the stack `kubeflow` needs."""
    within = "/api/v1/namespaces/kubeflow"
    api.objects[f"{within}/persistentvolumeclaims/regrow-cache"] = claim("Bound")
    api.objects[f"{within}/secrets/regrow-zenml"] = {"data": {"api-key": "a2V5"}}
    # A person of Kubeflow's makes no Jobs there.
    api.denied = {("", verb, "jobs") for verb in ("create", "get", "list", "delete")}
    return api


def test_kubeflow_needs_no_rights_to_jobs_but_the_way_to_its_server(kubeflow, look):
    found = look("kubeflow")
    assert [one.line() for one in found if one.state == "missing"] == []
    assert kubeflow.asked == {("", "get", "services/proxy"), ("", "create", "services/proxy")}
    (said,) = of(found, "gpus", "ok")
    assert "the orchestrator: stages ask for 1 nvidia.com/gpu; 1 nodes with regrow/pool=gpu" in said
    kubeflow.denied.add(("", "create", "services/proxy"))
    assert of(look("kubeflow"), "rights", "missing") == ["you may not: create services/proxy"]


def test_what_kubeflows_pods_would_wait_for_is_missing(kubeflow, look):
    within = "/api/v1/namespaces/kubeflow"
    kubeflow.objects[f"{within}/secrets/regrow-zenml"] = {"data": {"key": "a2V5"}}
    kubeflow.objects["/api/v1/nodes"] = {"items": []}
    del kubeflow.objects[f"{within}/persistentvolumeclaims/regrow-cache"]
    found = look("kubeflow")
    assert of(found, "pod_secrets", "missing") == ["the secret regrow-zenml has no api-key"]
    assert of(found, "volumes", "missing") == ["the volume claim regrow-cache is not there"]
    assert len(of(found, "gpus", "missing")) == 1
    del kubeflow.objects[f"{within}/secrets/regrow-zenml"]
    found = look("kubeflow")
    assert of(found, "pod_secrets", "missing") == ["the secret regrow-zenml is not there"]
    remedies = {one.remedy for one in found if one.what == "pod_secrets"}
    assert remedies == {
        "kubectl -n kubeflow create secret generic regrow-zenml --from-file=api-key=FILE; see docs/kubeflow.md"
    }


def test_pipelines_of_a_profile_run_in_its_namespace(kubeflow, look):
    within = "/api/v1/namespaces/ada"
    kubeflow.objects[within] = {}
    assert "the secret regrow-zenml is not there" in of(
        look("kubeflow", user_namespace="ada"), "pod_secrets", "missing"
    )
    kubeflow.objects[f"{within}/secrets/regrow-zenml"] = {"data": {"api-key": "a2V5"}}
    assert of(look("kubeflow", user_namespace="ada"), "pod_secrets", "ok")


def test_a_kubeflow_that_is_known_by_its_address_alone_cannot_be_looked_into(look):
    found = look(
        "kubeflow", kubernetes_context=None, kubeflow_hostname="https://kubeflow.example.com/pipeline"
    )
    assert [one.state for one in found] == ["note"]
