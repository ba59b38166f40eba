"""The test cluster as its users start it: pods, logs, GPUs that are counted, parts that are killed, and the end."""

import json
import os
import signal

import psutil
import pytest

from infra.cluster.services import SERVICES
from infra.stacks.schema import load
from infra.stacks.values import combine, sized
from tests.cluster.running import Running, wait_for

pytestmark = [pytest.mark.cluster]


def test_a_pod_runs_and_its_log_is_read(bare: Running):
    name = bare.pod("echo hello from the pod; echo $KUBERNETES_SERVICE_HOST")
    bare.wait(name, "Succeeded")
    assert bare.log(name).split("\n")[:2] == ["hello from the pod", "10.96.0.1"]


def test_a_pod_reaches_the_api_server_by_its_service_and_the_registry_by_the_nodes_address(bare: Running):
    registry = f"http://{bare.cluster.registry}/v2/"
    name = bare.pod(
        "nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null && echo api; "
        f"wget -q -O - {registry} && echo registry"
    )
    bare.wait(name, "Succeeded")
    assert bare.log(name).split() == ["api", "{}registry"]


def test_a_gpu_goes_to_one_pod_that_is_told_its_name(bare: Running):
    name = bare.pod("echo $NVIDIA_VISIBLE_DEVICES; sleep 1000", gpus=1)
    bare.wait(name, "Running")
    wait_for(lambda: bare.log(name), lambda: bare.events(name))
    first = bare.log(name).strip()
    other = bare.pod("echo $NVIDIA_VISIBLE_DEVICES", gpus=1)
    bare.wait(other, "Succeeded")
    assert {first, bare.log(other).strip()} == {"gpu-0", "gpu-1"}
    # One is taken: two more do not fit.
    waits = bare.pod("true", gpus=2)
    wait_for(lambda: "Insufficient nvidia.com/gpu" in bare.events(waits), lambda: bare.events(waits))
    assert bare.phase(waits) == "Pending"
    bare.core.delete_namespaced_pod(name, "default", grace_period_seconds=0)
    bare.wait(waits, "Succeeded")


def test_a_pod_that_wants_more_gpus_than_there_are_waits_with_the_reason(bare: Running):
    name = bare.pod("true", gpus=3)
    wait_for(lambda: "Insufficient nvidia.com/gpu" in bare.events(name), lambda: bare.events(name))
    assert "FailedScheduling" in bare.events(name)
    assert bare.phase(name) == "Pending"
    bare.core.delete_namespaced_pod(name, "default", grace_period_seconds=0)


def test_quotas_limits_and_priorities_are_held(bare: Running):
    spaces = {one.metadata.name for one in bare.core.list_namespace().items}
    if "held" not in spaces:
        bare.core.create_namespace({"metadata": {"name": "held"}})
        bare.core.create_namespaced_resource_quota(
            "held", {"metadata": {"name": "none"}, "spec": {"hard": {"requests.nvidia.com/gpu": "0"}}}
        )
    wait_for(lambda: bare.core.read_namespaced_resource_quota("none", "held").status.hard, lambda: "no quota")
    with pytest.raises(Exception, match="exceeded quota: none"):
        bare.pod("true", gpus=1, namespace="held")
    bare.core.delete_namespace("held")


def test_up_a_second_time_starts_nothing(bare: Running):
    before = bare.pids
    assert set(before) == set(SERVICES)
    said = bare.command("up", "--no-servers")
    assert said.count("runs already") == len(SERVICES)
    assert bare.pids == before


@pytest.mark.parametrize("name", ["kubelet", "apiserver", "containerd", "etcd", "device-plugin"])
def test_what_died_is_started_again_and_running_pods_go_on(bare: Running, name: str):
    pod = bare.pod("while true; do echo alive; sleep 1; done", gpus=1)
    bare.wait(pod, "Running")
    started = bare.core.read_namespaced_pod(pod, "default").status.container_statuses[0].container_id
    before = bare.pids
    os.kill(before[name], signal.SIGKILL)
    psutil.wait_procs([psutil.Process(before[name])] if psutil.pid_exists(before[name]) else [], timeout=10)
    assert f"{name:<18} died" in bare.command("status", check=False)
    bare.command("up", "--no-servers")
    after = bare.pids
    assert after[name] != before[name]
    assert {one for one in after if after[one] != before[one]} == {name}
    status = bare.core.read_namespaced_pod(pod, "default").status
    assert status.phase == "Running"
    assert status.container_statuses[0].container_id == started
    assert status.container_statuses[0].restart_count == 0
    new = bare.pod("echo $NVIDIA_VISIBLE_DEVICES", gpus=1)
    bare.wait(new, "Succeeded")
    assert bare.log(new).startswith("gpu-")
    bare.core.delete_namespaced_pod(pod, "default", grace_period_seconds=0)


def test_the_number_of_gpus_can_be_changed(bare: Running):
    bare.command("up", "--no-servers", "--gpus", "4")
    name = bare.pod("echo $NVIDIA_VISIBLE_DEVICES", gpus=3)
    bare.wait(name, "Succeeded")
    assert len(bare.log(name).split(",")) == 3
    bare.command("up", "--no-servers", "--gpus", "2")
    node = bare.core.read_node(bare.cluster.node)
    assert node.status.allocatable["nvidia.com/gpu"] == "2"
    assert node.metadata.labels["regrow/pool"] == "gpu"


def test_env_and_values_name_the_cluster_and_hold_no_secret(bare: Running):
    found = bare.variables
    assert found["REGROW_CLUSTER_REGISTRY"] == bare.cluster.registry
    assert found["ZENML_CONTAINER_ENGINE"] == "podman"
    text = bare.command("values")
    values = json.loads(text)
    assert values["container_registry"]["uri"] == bare.cluster.registry
    assert values["orchestrator"]["kubernetes_context"] == "regrow-test"
    assert values["step_operators"]["gpu"]["pod_settings"] == {"node_selectors": {"regrow/pool": "gpu"}}
    # As the stack reads them.
    stack = sized(load("kubernetes"), combine([("values", values)]))
    assert stack.stage("fine_tune").resources.memory == "2Gi"
    secrets = (bare.cluster.folder / "secrets.json", bare.cluster.servers.folder / "secrets.json")
    for one in secrets:
        for secret in json.loads(one.read_text()).values() if one.is_file() else []:
            assert secret not in text


@pytest.mark.skipif("REGROW_TEST_CLUSTER" in os.environ, reason="would take the given cluster down")
def test_down_ends_pods_and_up_finds_the_records_again(bare: Running):
    pod = bare.pod("trap '' TERM; sleep 1000")
    bare.wait(pod, "Running")
    bare.core.create_namespaced_config_map("default", {"metadata": {"name": "kept"}, "data": {"one": "1"}})
    said = bare.command("down")
    assert "pods: ended" in said
    assert bare.command("status", check=False).count("stopped") == len(SERVICES)
    assert "was not running" in bare.command("down")
    bare.command("up", "--no-servers")
    assert bare.core.read_namespaced_config_map("kept", "default").data == {"one": "1"}
    assert bare.core.list_namespaced_pod("default").items == []


@pytest.mark.skipif("REGROW_TEST_CLUSTER" in os.environ, reason="would take the given cluster down")
def test_a_second_cluster_on_the_machine_is_refused(bare: Running, tmp_path_factory: pytest.TempPathFactory):
    other = Running(tmp_path_factory.getbasetemp() / "other")
    said = other.command("up", "--no-servers", check=False)
    assert f"the cluster of {bare.cluster.folder} runs on this machine" in said
    assert f"down --folder {bare.cluster.folder}" in said


@pytest.mark.skipif("REGROW_TEST_CLUSTER" in os.environ, reason="would take the given cluster down")
def test_down_with_everything_killed_leaves_nothing_either(bare: Running):
    """The end of `bare` compares the machine with what it was."""
    pod = bare.pod("sleep 1000", gpus=1)
    bare.wait(pod, "Running")
    for pid in bare.pids.values():
        os.kill(pid, signal.SIGKILL)
    bare.command("down")
