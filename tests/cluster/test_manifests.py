"""`infra/kubernetes` on a real API server: overlays/test applied and used, the others checked by the server."""

import uuid
from typing import Any

import pytest
from kubernetes import client

from infra.kubernetes.kubectl import OVERLAYS, apply, build
from regrow.errors import RegrowError
from tests.cluster.prepared import NAMESPACE, Prepared, pod
from tests.cluster.running import wait_for

pytestmark = pytest.mark.cluster
# What 1.20 knows only in an older version, with the same fields.
OLDER = {"CronJob": "batch/v1beta1", "PodDisruptionBudget": "policy/v1beta1"}


@pytest.fixture(scope="module")
def prepared(cluster) -> Prepared:
    return Prepared(cluster)


def test_the_test_overlay_is_taken_whole_and_a_second_time_changes_nothing(prepared):
    assert len(prepared.said) == len(prepared.objects)
    assert len(apply(prepared.objects, dry=True, kubeconfig=prepared.kubeconfig)) == len(prepared.objects)
    again = apply(prepared.objects, kubeconfig=prepared.kubeconfig)
    assert [line for line in again if not line.endswith("unchanged")] == []


def test_the_cache_is_bound_and_pods_hand_files_on(prepared):
    core, image = prepared.core, prepared.cluster.busybox

    def claim() -> str:
        return core.read_namespaced_persistent_volume_claim("regrow-cache", NAMESPACE).status.phase

    wait_for(lambda: claim() == "Bound", claim)
    key = uuid.uuid4().hex
    volume = {"name": "cache", "persistentVolumeClaim": {"claimName": "regrow-cache"}}
    mount = {"volumeMounts": [{"name": "cache", "mountPath": "/cache"}]}
    for script, expected in ((f"id -u; echo {key} > /cache/{key}", "1000"), (f"cat /cache/{key}", key)):
        body = pod(image, script, serviceAccountName="regrow-step", container=mount, volumes=[volume])
        name = core.create_namespaced_pod(NAMESPACE, body).metadata.name
        try:
            wait_done(core, name)
            assert core.read_namespaced_pod_log(name, NAMESPACE).strip() == expected
        finally:
            core.delete_namespaced_pod(name, NAMESPACE)
    (prepared.cluster.cluster.folder / "cache" / key).unlink()


def wait_done(core: client.CoreV1Api, name: str) -> None:
    def state() -> str:
        return core.read_namespaced_pod(name, NAMESPACE).status.phase

    wait_for(lambda: state() == "Succeeded", lambda: f"{state()}: {said(core, name)}", 120)


def said(core: client.CoreV1Api, name: str) -> str:
    found = core.list_namespaced_event(NAMESPACE, field_selector=f"involvedObject.name={name}").items
    return "\n".join(f"{one.reason}: {one.message}" for one in found)


@pytest.fixture
def elsewhere(cluster) -> Any:
    """A namespace of its own: what the overlays have in common may not be changed there where others work."""
    name = f"regrow-{uuid.uuid4().hex[:8]}"
    cluster.core.create_namespace({"metadata": {"name": name}})
    yield name
    cluster.core.delete_namespace(name)


def moved(objects: list[dict[str, Any]], namespace: str) -> list[dict[str, Any]]:
    """Return the objects in another namespace, in the versions that the server knows."""
    changed = []
    for one in objects:
        if one["kind"] == "Namespace":
            continue
        one = one | {"apiVersion": OLDER.get(one["kind"], one["apiVersion"])}
        if "namespace" in one["metadata"]:
            one["metadata"] = one["metadata"] | {"namespace": namespace}
        for subject in one.get("subjects", []):
            subject["namespace"] = namespace
        changed.append(one)
    return changed


@pytest.mark.parametrize("folder", ["base", "overlays/gpu", "overlays/gpu-check"])
def test_the_server_accepts_the_others(cluster, elsewhere, folder):
    objects = moved(build(OVERLAYS.parent / folder), elsewhere)
    kubeconfig = str(cluster.cluster.pki("admin.conf"))
    told = apply(objects, dry=True, kubeconfig=kubeconfig)
    assert len(told) == len(objects) and all(line.endswith("(server dry run)") for line in told)


def test_the_server_refuses_what_is_wrong(cluster, elsewhere):
    objects = moved(build(OVERLAYS / "gpu-check"), elsewhere)
    objects[0]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "0.5"
    with pytest.raises(RegrowError, match="must be an integer"):
        apply(objects, dry=True, kubeconfig=str(cluster.cluster.pki("admin.conf")))
