"""Two pods tune one model: the command and the variables of ZenML's indexed Job, in two plain pods.

Kubernetes 1.20 has no Indexed Jobs and this cluster no DNS. A service of pod 0 stands for its name, and the pods are
told their numbers; the network, the shared volume, the images and the rendezvous (gloo) are real.
"""

import shutil
import uuid
from pathlib import Path

import pandas
import pytest
from kubernetes import client

from regrow.tune.pods import collect, command, lay_out
from regrow.tune.recipe import Lora, Sft
from tests.cluster.prepared import NAMESPACE, pod
from tests.cluster.running import Running, wait_for
from tests.cluster.site import Site
from tests.tiny import tiny_checkpoint
from tests.tune.training import sentences

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def site(cluster: Running, tmp_path_factory) -> Site:
    return Site(cluster, tmp_path_factory.mktemp("pods"))


def test_two_pods_meet_and_leave_one_result(site: Site, tmp_path: Path):
    name = f"tune-{uuid.uuid4().hex[:8]}"
    model, data = tiny_checkpoint(tmp_path / "model"), tmp_path / "data"
    rows = pandas.read_json(sentences(data / "rows.jsonl"), lines=True)
    rows.to_parquet(data / "records.parquet")
    shared = site.cluster.cluster.folder / "cache" / "work" / name
    recipe = Sft(trainable=Lora(r=4), max_steps=6, batch_size=4)
    lay_out(shared, model, data, recipe)
    for place in (shared.parent, shared, *shared.rglob("*")):
        shutil.chown(place, 1000, 1000)
    service = client.V1Service(
        metadata=client.V1ObjectMeta(name=name),
        spec=client.V1ServiceSpec(selector={"tune": f"{name}-0"}, ports=[client.V1ServicePort(port=29500)]),
    )
    address = site.core.create_namespaced_service(NAMESPACE, service).spec.cluster_ip
    words = command(f"$REGROW_WORK/{name}", teacher=False)
    for index in (0, 1):
        told = {
            "REGROW_WORK": "/cache/work", "HOME": "/tmp", "JOB_COMPLETION_INDEX": str(index),
            "ZENML_KUBERNETES_POD_COUNT": "2", "ZENML_KUBERNETES_MAIN_ADDRESS": address,
            "ZENML_KUBERNETES_MAIN_PORT": "29500",
        }  # fmt: skip
        body = pod(
            site.image, "", volumes=[{"name": "cache", "persistentVolumeClaim": {"claimName": "regrow-cache"}}],
            container={
                "command": words, "args": [], "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                "env": [{"name": key, "value": value} for key, value in told.items()],
                "resources": {"requests": {"cpu": "100m", "memory": "1500Mi"}, "limits": {"memory": "3Gi"}},
            },
        )  # fmt: skip
        body["metadata"] = {"name": f"{name}-{index}", "labels": {"tune": f"{name}-{index}"}}
        site.core.create_namespaced_pod(NAMESPACE, body)

    def phases() -> set[str]:
        return {site.core.read_namespaced_pod(f"{name}-{index}", NAMESPACE).status.phase for index in (0, 1)}

    def logs() -> str:
        return "\n".join(site.core.read_namespaced_pod_log(f"{name}-{index}", NAMESPACE) for index in (0, 1))

    wait_for(lambda: phases() <= {"Succeeded", "Failed"}, logs, 300)
    assert phases() == {"Succeeded"}, logs()
    where = {site.core.read_namespaced_pod(f"{name}-{index}", NAMESPACE).status.pod_ip for index in (0, 1)}
    assert len(where) == 2
    tuned = collect(shared, tmp_path / "out")
    assert tuned.summary["processes"] == 2
    assert len(tuned.log) == 6
    assert tuned.checkpoint.digest != model.digest
    for index in (0, 1):
        site.core.delete_namespaced_pod(f"{name}-{index}", NAMESPACE)
    site.core.delete_namespaced_service(name, NAMESPACE)
