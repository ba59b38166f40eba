"""`regrow run --stack kubernetes`: the whole pipeline in pods, and what it does when parts of the world go away."""

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
from kubernetes import client

from infra.servers import s3
from infra.servers import services as servers
from tests.cluster.prepared import NAMESPACE
from tests.cluster.running import Running
from tests.cluster.site import Site, Watch, gpus_of, step_of

pytestmark = pytest.mark.cluster
GPU_STEPS = {
    "compute_layer_importance", "generate_self_data_plants", "generate_self_data_water", "fine_tune_plants",
    "fine_tune_water", "measure_shift_plants", "measure_shift_water", "evaluate_base", "evaluate_pruned",
    "evaluate_tuned-plants", "evaluate_tuned-water", "evaluate_merged",
}  # fmt: skip
CPU_STEPS = {"load_model", "prune", "validate_data_plants", "validate_data_water", "merge", "register"}


@pytest.fixture(scope="module")
def site(cluster: Running, tmp_path_factory) -> Site:
    return Site(cluster, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def config(site: Site) -> dict:
    return site.tiny()


@pytest.fixture(scope="module")
def ran(site: Site, config: dict) -> dict:
    """A run of the tiny pipeline from nothing."""
    site.forget()
    name = site.project.write_config(config, "tiny.yaml")
    # What runs that failed have left, and may be continued.
    unfinished = set((site.cluster.cluster.folder / "cache" / "work").glob("compress-*"))
    began = datetime.now(UTC)
    done = site.regrow("run", name, "--stack", "kubernetes")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return {
        "pods": site.pods(),
        "began": began,
        "said": done.stdout + done.stderr,
        "summary": site.project.summary,
        "unfinished": unfinished,
    }


def test_every_step_was_a_pod_that_completed(ran, site):
    pods = {}
    for pod in ran["pods"]:
        pods.setdefault(step_of(pod), []).append(pod)
    assert set(pods) >= GPU_STEPS | CPU_STEPS
    states = {f"{name}: {pod.metadata.name}": pod.status.phase for name, some in pods.items() for pod in some}
    assert set(states.values()) == {"Succeeded"}, states
    # A step on the step operator has two pods, and the one that works holds the GPU.
    for name in GPU_STEPS:
        assert sorted(gpus_of(pod) for pod in pods[name]) == [0, 1], name
    for name in CPU_STEPS:
        assert [gpus_of(pod) for pod in pods[name]] == [0], name
    assert {pod.spec.containers[0].image for some in pods.values() for pod in some} == {site.image}
    assert all(pod.spec.security_context.run_as_non_root for some in pods.values() for pod in some)


def test_independent_branches_ran_at_the_same_time(ran):
    def span(name):
        pod = next(one for one in ran["pods"] if step_of(one) == name and gpus_of(one))
        state = pod.status.container_statuses[0].state.terminated
        return state.started_at, state.finished_at

    # Both need the unpruned model alone, and there are two GPUs.
    branches = [span(name) for name in ("generate_self_data_plants", "generate_self_data_water", "evaluate_base",
                                        "compute_layer_importance")]  # fmt: skip
    together = max(sum(start <= moment < end for start, end in branches) for moment, _ in branches)
    assert together == 2


def test_artifacts_lie_in_the_bucket_and_the_version_in_mlflow(ran, site):
    store = s3.client(site.cluster.cluster.servers)

    def weights(bucket):
        pages = store.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [
            one["Key"] for page in pages for one in page.get("Contents", [])
            if one["Key"].endswith("/model.safetensors") and one["LastModified"] >= ran["began"]
        ]  # fmt: skip

    # base, pruned, two tuned, merged: each model once, and none of them in MLflow's bucket, too.
    assert len(weights(s3.ZENML_BUCKET)) == 5
    assert not weights(s3.MLFLOW_BUCKET)
    registry = ran["summary"]["registered"]
    listed = site.regrow("models", "show", f"tiny-regrow/{registry['version']}", "--json")
    assert listed.returncode == 0, listed.stderr
    assert json.loads(listed.stdout)["tags"]["regrow.digest"] == registry["digest"]


def test_the_audit_of_the_registered_version_is_green(ran, site):
    version = ran["summary"]["registered"]["version"]
    done = site.regrow("audit", f"models:/tiny-regrow/{version}", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["verified"] is True
    assert not found["failures"]
    assert {"prune", "distill", "validate", "tune"} <= {one["stage"] for one in found["chain"]}
    # Each statement says the image that its pod ran.
    assert site.image.partition("@")[2].removeprefix("sha256:") in done.stdout


def test_the_cost_report_counts_pods_and_gpus(ran):
    cost = ran["summary"]["cost"]
    assert set(cost["stages"]) >= {"generate_self_data", "fine_tune", "evaluate", "prune"}
    assert cost["stages"]["fine_tune"]["gpu_seconds"] == pytest.approx(cost["stages"]["fine_tune"]["seconds"])
    assert cost["stages"]["prune"]["gpu_seconds"] == 0
    assert cost["total"]["gpu_seconds"] > 0


def test_logs_of_every_pod_are_in_zenml(ran, site):
    said = site.python(
        "import json\n"
        "from zenml.client import Client\n"
        "run = Client().list_pipeline_runs(size=1, sort_by='desc:created').items[0]\n"
        "found = {}\n"
        "for name, step in Client().get_pipeline_run(run.id).steps.items():\n"
        "    found[name] = len(Client().zen_store.get(f'/steps/{step.id}/logs', params={'source': 'step'}))\n"
        "print(json.dumps(found))\n"
    )
    assert set(said) == GPU_STEPS | CPU_STEPS
    assert all(said.values()), said


def test_nothing_secret_is_in_pods_logs_artifacts_or_mlflow(ran, site):
    given = site.cluster.variables
    secrets = {
        given[name] for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "ZENML_STORE_API_KEY")
    }
    places = {"the command's output": ran["said"]}
    for pod in ran["pods"]:
        places[f"the log of {pod.metadata.name}"] = site.core.read_namespaced_pod_log(
            pod.metadata.name, NAMESPACE
        )
        places[f"the specification of {pod.metadata.name}"] = json.dumps(
            site.cluster.api.sanitize_for_serialization(pod.spec)
        )
    store = s3.client(site.cluster.cluster.servers)
    for bucket in (s3.ZENML_BUCKET, s3.MLFLOW_BUCKET):
        for page in store.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for one in page.get("Contents", []):
                if not one["Key"].endswith((".safetensors", ".parquet")):
                    body = store.get_object(Bucket=bucket, Key=one["Key"])["Body"].read()
                    places[f"{bucket}/{one['Key']}"] = body.decode(errors="replace")
    assert len(places) > 100
    leaks = [place for place, text in places.items() for secret in secrets if secret in text]
    assert not leaks, leaks


def test_work_of_a_finished_run_is_gone_and_weights_stay_on_the_node(ran, site):
    cache = site.cluster.cluster.folder / "cache"
    assert set((cache / "work").glob("compress-*")) <= ran["unfinished"]
    assert list((cache / "regrow").rglob("*.safetensors"))


def test_the_same_again_comes_from_the_cache(ran, site):
    site.forget()
    done = site.regrow("run", "tiny.yaml", "--stack", "kubernetes")
    assert done.returncode == 0, done.stderr[-5000:]
    assert not [pod for pod in site.pods() if gpus_of(pod)]
    assert site.project.summary["registered"]["digest"] == ran["summary"]["registered"]["digest"]


def test_data_that_fails_the_gate_ends_the_run_before_tuning_has_a_pod(ran, site, config):
    site.forget()
    bad = json.loads(json.dumps(config))
    bad["parameters"]["gate"] |= {"min_acceptance_rate": 1.0, "on_fail": "stop"}
    name = site.project.write_config(bad, "bad.yaml")
    done = site.regrow("run", name, "--stack", "kubernetes")
    assert done.returncode == 3, done.stderr[-5000:]
    assert "acceptance" in done.stderr
    assert not [pod.metadata.name for pod in site.pods() if step_of(pod).startswith("fine_tune")]
    _no_orphans(site)


def test_a_run_survives_the_loss_of_pods_and_servers(ran, site, config):
    site.forget()
    hostile = json.loads(json.dumps(config))
    longer = {"max_steps": 400, "save_every": 5}
    hostile["parameters"]["tune"] |= longer
    hostile["parameters"]["datasets"][1]["tune"] |= longer
    hostile["parameters"]["registry"]["name"] = "tiny-hostile"
    name = site.project.write_config(hostile, "hostile.yaml")
    home = site.cluster.cluster.servers
    work = site.cluster.cluster.folder / "cache" / "work"

    def tuning(set_):
        # It trains and has saved a checkpoint: what is lost from here on is work.
        return lambda: bool(list(work.glob(f"compress-*/fine_tune_{set_}/*/job/*/steps/checkpoint-*/whole")))

    def worker(set_):
        return next(
            pod for pod in site.pods()
            if step_of(pod) == f"fine_tune_{set_}" and gpus_of(pod) and pod.status.phase == "Running"
        )  # fmt: skip

    def evict():
        site.core.delete_namespaced_pod(worker("plants").metadata.name, NAMESPACE)

    def kill():
        uid = worker("water").metadata.uid
        site.core.delete_namespaced_pod(worker("water").metadata.name, NAMESPACE, grace_period_seconds=0)
        assert uid

    def restart(service):
        def do():
            servers.down(home, (service,))
            servers.up(home, (service,))

        return do

    def outage():
        # Not `down`, which also stops what needs it.
        os.kill(home.record("s3")["pid"], signal.SIGKILL)
        time.sleep(30)
        servers.up(home, ("s3",))

    def runs(prefix):
        return lambda: any(
            step_of(pod).startswith(prefix) and pod.status.phase == "Running" and gpus_of(pod)
            for pod in site.pods()
        )

    with Watch(
        ("restart MLflow", runs("fine_tune"), restart("mlflow")),
        ("evict a tuning pod", tuning("plants"), evict),
        ("kill a tuning pod", tuning("water"), kill),
        ("restart ZenML", runs("evaluate_tuned"), restart("zenml")),
        ("S3 away for 30 s", runs("evaluate_merged"), outage),
    ) as watch:
        done = site.regrow("run", name, "--stack", "kubernetes")
    assert not watch.errors, watch.errors
    assert len(watch.done) == 5, watch.done
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    found = site.project.summary
    assert found["cost"]["stages"]["fine_tune"]["tries"] >= 4  # two sets, and each of them twice
    audit = site.regrow("audit", f"models:/tiny-hostile/{found['registered']['version']}", "--json")
    assert json.loads(audit.stdout)["verified"] is True, audit.stdout[-2000:]
    _no_orphans(site)


def test_a_tuning_pod_that_nobody_waits_for_any_more_gives_its_gpu_away(ran, site, config):
    site.forget()
    longer = json.loads(json.dumps(config))
    # A successor is at work after half a minute or more; the training must not be over by then.
    longer["parameters"]["tune"] |= {"max_steps": 2000, "save_every": 20, "learning_rate": 1.1e-3}
    name = site.project.write_config(longer, "longer.yaml")
    work = site.cluster.cluster.folder / "cache" / "work"
    left = {}
    read_log = (
        "import json\n"
        "from zenml.client import Client\n"
        "run = Client().list_pipeline_runs(size=1, sort_by='desc:created').items[0]\n"
        "step = Client().get_pipeline_run(run.id).steps['fine_tune_plants']\n"
        "entries = Client().zen_store.get(f'/steps/{step.id}/logs', params={'source': 'step'})\n"
        "print(json.dumps([one['message'] for one in entries if 'tune:' in one['message']]))\n"
    )

    def plants(gpus):
        return [pod for pod in site.pods() if step_of(pod) == "fine_tune_plants" and gpus_of(pod) == gpus]

    def tuning():
        return bool(list(work.glob("compress-*/fine_tune_plants/*/job/*/steps/checkpoint-*/whole")))

    def lose():
        # Before that: how far the training is can be read in ZenML while it goes on.
        deadline = time.monotonic() + 90
        while not any("loss" in line for line in site.python(read_log)) and time.monotonic() < deadline:
            time.sleep(1)
        left["progress"] = site.python(read_log)
        waiting = next(pod for pod in plants(0) if pod.status.phase == "Running").metadata.name
        left["worker"] = next(pod for pod in plants(1) if pod.status.phase == "Running").metadata.name
        # At once, as with a node that is lost: ZenML's process in it cannot end the other pod any more.
        site.core.delete_namespaced_pod(waiting, NAMESPACE, grace_period_seconds=0)

    with Watch(("lose the pod that waits", tuning, lose)) as watch:
        done = site.regrow("run", name, "--stack", "kubernetes")
    assert watch.done and not watch.errors, watch.errors
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    first, second = sorted(plants(1), key=lambda pod: pod.metadata.creation_timestamp)
    assert first.metadata.name == left["worker"]
    assert any("/2000" in line and "loss" in line for line in left["progress"]), left["progress"]
    assert len(site.python(read_log)) < 60  # a line now and then, not ten a second
    assert (first.status.phase, second.status.phase) == ("Failed", "Succeeded")
    said = site.core.read_namespaced_pod_log(first.metadata.name, NAMESPACE)
    assert "a later try of this step waits" in said, said[-3000:]
    resumed = site.python(
        "from zenml.client import Client\n"
        "run = Client().list_pipeline_runs(size=1, sort_by='desc:created').items[0]\n"
        "step = Client().get_pipeline_run(run.id).steps['fine_tune_plants']\n"
        "print(step.outputs['tuning'][0].load().summary['resumed_from'])\n"
    )
    assert resumed > 0
    _no_orphans(site)


def test_a_run_waits_while_the_quota_is_full(ran, site):
    site.forget()
    quota = client.V1ResourceQuota(
        metadata=client.V1ObjectMeta(name="full"), spec=client.V1ResourceQuotaSpec(hard={"pods": "0"})
    )
    site.core.create_namespaced_resource_quota(NAMESPACE, quota)
    process = started(site, "tiny.yaml")
    try:
        time.sleep(40)
        assert process.poll() is None
        assert not site.pods()
    finally:
        site.core.delete_namespaced_resource_quota("full", NAMESPACE)
    said, _ = process.communicate(timeout=900)
    assert process.returncode == 0, said[-5000:]
    _no_orphans(site)


def test_a_registry_that_is_away_is_named_and_nothing_starts_later(ran, site):
    site.forget()
    running = site.cluster
    ctr = ["ctr", "--address", str(running.cluster.containerd_socket), "--namespace", "k8s.io", "images"]
    names = subprocess.run([*ctr, "ls", "--quiet"], check=True, capture_output=True, text=True).stdout.split()
    ours = [name for name in names if "regrow-base" in name]
    assert ours
    subprocess.run([*ctr, "rm", "--sync", *ours], check=True, capture_output=True)
    os.kill(running.pids["registry"], signal.SIGKILL)
    try:
        done = site.regrow("run", "tiny.yaml", "--stack", "kubernetes")
    finally:
        running.command("up")
    assert done.returncode == 1, done.stderr[-5000:]
    assert "ErrImagePull" in done.stderr.splitlines()[-1]
    _no_orphans(site)
    time.sleep(30)  # longer than the kubelet waits before it pulls again
    assert not [pod for pod in site.pods() if pod.status.phase in ("Pending", "Running")]
    again = site.regrow("run", "tiny.yaml", "--stack", "kubernetes")
    assert again.returncode == 0, again.stderr[-5000:]


def test_a_pod_that_is_killed_for_memory_says_so_beside_the_estimate(ran, site, config):
    site.forget()
    values = json.loads(site.cluster.command("values", "--images", str(site.images)))
    values["stages"]["fine_tune"] = {"resources": {"memory": "800Mi", "shm": "64Mi"}, "retries": 0}
    short = json.loads(json.dumps(config))
    short["parameters"]["tune"]["learning_rate"] = 3e-4
    name = site.project.write_config(short, "short.yaml")
    try:
        site.stack(values)
        done = site.regrow("run", name, "--stack", "kubernetes")
    finally:
        site.register()
    assert done.returncode == 1, done.stderr[-5000:]
    said = done.stderr.splitlines()[-1]
    # The kernel kills either the worker, and the step tells, or all of the container, and Kubernetes does.
    assert "killed by the kernel" in said or "was killed for memory (OOMKilled" in said, said
    assert "estimated need" in said
    _no_orphans(site)


def started(site: Site, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "regrow.cli", "run", name, "--stack", "kubernetes"],
        cwd=site.project.folder, env=site.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def _no_orphans(site: Site) -> None:
    """No job works on, and no pod runs, after the command has ended."""
    deadline = time.monotonic() + 90
    while True:
        left = [pod.metadata.name for pod in site.pods() if pod.status.phase in ("Running", "Pending")]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert not left, left
