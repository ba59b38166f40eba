"""The stack files and the values laid over them, without ZenML's store."""

import ast
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from infra.stacks.merging import merge
from infra.stacks.schema import GPU, STAGES, StackFile, load, names
from infra.stacks.values import combine, settled, sized
from regrow.errors import InputError
from regrow.parsing import parse

ROOT = Path(__file__).parents[2]
NEEDED = {
    "orchestrator": {"kubernetes_context": "here"},
    "artifact_store": {"path": "s3://bucket/zenml"},
    "container_registry": {"uri": "10.0.0.1:5000"},
    "experiment_tracker": {"tracking_uri": "http://10.0.0.1:5001"},
}
# As infra/terraform prints its output `stack`.
TERRAFORM = {
    "artifact_store": {"path": "s3://bucket/zenml"},
    "container_registry": {
        "uri": "1.dkr.ecr.eu-central-1.amazonaws.com",
        "default_repository": "regrow/zenml",
    },
    "orchestrator": {
        "kubernetes_context": "regrow",
        "kubernetes_namespace": "regrow",
        "service_account_name": "regrow-orchestrator",
        "step_pod_service_account_name": "regrow-step",
        "pod_settings": {"node_selectors": {"regrow/pool": "cpu"}},
    },
    "step_operators": {
        "gpu": {
            "kubernetes_namespace": "regrow",
            "service_account_name": "regrow-step",
            "incluster": True,
            "pod_settings": {
                "node_selectors": {"regrow/pool": "gpu"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            },
        }
    },
}


def refusal(call) -> str:
    with pytest.raises(InputError) as raised:
        call()
    return str(raised.value)


def test_every_file_is_whole():
    assert names() == ["kubeflow", "kubernetes", "local"]
    for name in names():
        assert load(name).name == name


def test_stages_are_the_steps():
    module = ast.parse((ROOT / "steps" / "__init__.py").read_text())
    exported = next(
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
    )
    assert sorted(exported) == sorted(STAGES)


@pytest.mark.parametrize("name", ["kubernetes", "kubeflow"])
def test_stages_with_gpus_have_shared_memory_and_their_limit_is_their_request(name):
    stack = load(name)
    asking = {function for function in STAGES if stack.stage(function).resources.gpus}
    assert asking == {
        "compute_layer_importance", "evaluate", "fine_tune", "generate_self_data", "measure_drift", "measure_shift",
        "measure_speed",
    }  # fmt: skip
    for function in STAGES:
        wanted = stack.stage(function).resources
        assert bool(wanted.shm) == bool(wanted.gpus)
        assert wanted.pod["requests"]["memory"] == wanted.pod["limits"]["memory"]
        assert wanted.pod["limits"].get(GPU) == wanted.pod["requests"].get(GPU)
        assert "cpu" not in wanted.pod["limits"]


def test_a_stage_begins_with_the_default():
    stack = load("kubernetes")
    assert stack.stage("tabulate") == stack.stages["default"]
    assert stack.stage("register").resources.cpu == stack.stages["default"].resources.cpu
    assert stack.stage("fine_tune").grace > stack.stage("prune").grace


def test_a_wrong_key_is_named():
    whole = yaml.safe_load((ROOT / "infra" / "stacks" / "kubernetes.yaml").read_text())
    whole["stages"]["fine_tune"]["resources"]["memry"] = "1Gi"
    assert "stages.fine_tune.resources.memry" in refusal(lambda: parse(StackFile, whole, "kubernetes.yaml"))
    del whole["stages"]["fine_tune"]["resources"]["memry"]
    whole["stages"]["finetune"] = {}
    assert "stages: finetune: no such step" in refusal(lambda: parse(StackFile, whole, "kubernetes.yaml"))
    assert "no such stack file; there are kubeflow, kubernetes, local" in refusal(lambda: load("../local"))


def test_only_generation_has_an_engine():
    wrong = {"stages": {"evaluate": {"engines": {"vllm": "generate"}}}}
    assert "only generate_self_data has an engine" in refusal(
        lambda: sized(load("kubernetes"), combine([("v", wrong)]))
    )
    generate = load("kubernetes").stage("generate_self_data")
    assert [generate.with_engine(one).image for one in ("transformers", "endpoint", "vllm", None)] == [
        "tune",
        "tune",
        "generate",
        "tune",
    ]


def test_what_is_missing_is_named_all_at_once():
    said = refusal(
        lambda: settled(load("kubernetes"), combine([("v", {"orchestrator": NEEDED["orchestrator"]})]))
    )
    for key in ("artifact_store.path", "container_registry.uri", "experiment_tracker.tracking_uri"):
        assert key in said
    assert "kubernetes_context" not in said


def test_kubeflow_is_reached_by_a_context_or_by_its_address():
    rest = {key: value for key, value in NEEDED.items() if key != "orchestrator"}
    for reached in (
        {"kubernetes_context": "here"},
        {"kubeflow_hostname": "https://kubeflow.example.com/pipeline"},
    ):
        parts = settled(load("kubeflow"), combine([("v", rest | {"orchestrator": reached})]))
        assert reached.items() <= parts["orchestrator", ""][1].items()
    said = refusal(lambda: settled(load("kubeflow"), combine([("v", rest)])))
    assert "orchestrator.kubernetes_context or kubeflow_hostname" in said


def test_kubeflows_claim_is_that_of_the_manifests():
    page = (ROOT / "docs" / "kubeflow.md").read_text()
    claim = yaml.safe_load(page.split("```yaml\n# cache.yaml", 1)[1].split("\n", 1)[1].split("```", 1)[0])
    assert claim["spec"].pop("storageClassName")
    assert claim == yaml.safe_load((ROOT / "infra/kubernetes/base/cache.yaml").read_text())


def test_terraforms_output_is_a_values_file():
    values = combine(
        [("terraform.json", TERRAFORM), ("mine.yaml", {"experiment_tracker": NEEDED["experiment_tracker"]})]
    )
    parts = settled(load("kubernetes"), values)
    pod = parts["step_operator", "gpu"][1]["pod_settings"]
    assert pod["node_selectors"] == {"regrow/pool": "gpu"}
    assert pod["volume_mounts"] == [{"name": "cache", "mountPath": "/cache"}]  # of the file
    assert parts["orchestrator", ""][1]["pod_settings"]["node_selectors"] == {"regrow/pool": "cpu"}


def test_another_pool_is_as_the_first_one():
    pools = {"gpu": {}, "gpu-large": {"pod_settings": {"node_selectors": {"regrow/pool": "large"}}}}
    parts = settled(load("kubernetes"), combine([("v", NEEDED | {"step_operators": pools})]))
    large = parts["step_operator", "gpu-large"][1]
    assert large["incluster"] is True
    assert large["pod_settings"]["node_selectors"] == {"regrow/pool": "large"}
    said = refusal(
        lambda: settled(load("kubernetes"), combine([("v", NEEDED | {"step_operators": {"gpu-large": {}}})]))
    )
    assert "step_operator gpu" in said
    assert "gpu-large" in said


def test_later_values_win_and_each_file_is_checked():
    values = combine([("a.yaml", NEEDED), ("b.yaml", {"artifact_store": {"path": "s3://other"}})])
    assert values.artifact_store == {"path": "s3://other"}
    assert "b.yaml.artifact_stor" in refusal(
        lambda: combine([("a.yaml", NEEDED), ("b.yaml", {"artifact_stor": {}})])
    )
    assert "v.images.tuna" in refusal(lambda: combine([("v", {"images": {"tuna": "x"}})]))


def test_secrets_have_no_place_in_values():
    said = refusal(lambda: combine([("v", {"environment": {"HF_TOKEN": "hf_abc"}})]))
    assert "HF_TOKEN looks like a secret" in said
    assert "hf_abc" not in said


def test_a_stack_without_a_kind_takes_no_values_for_it():
    local = {"artifact_store": {"path": "/tmp/x"}}
    assert "container_registry" in refusal(
        lambda: settled(load("local"), combine([("v", local | {"container_registry": {"uri": "x"}})]))
    )
    assert "step_operators" in refusal(
        lambda: settled(load("local"), combine([("v", local | {"step_operators": {"gpu": {}}})]))
    )


def test_values_size_the_stages():
    small = {
        "every": {"resources": {"memory": "1Gi"}},
        "fine_tune": {"resources": {"shm": "64Mi"}, "retries": 9},
    }
    stack = sized(load("kubernetes"), combine([("v", {"stages": small, "waiting": {"memory": "300Mi"}})]))
    assert {stack.stage(function).resources.memory for function in STAGES} == {"1Gi"}
    tune = stack.stage("fine_tune")
    assert (tune.resources.shm, tune.resources.gpus, tune.retries, tune.image) == ("64Mi", 1, 9, "tune")
    assert stack.stage("evaluate").resources.shm == "8Gi"
    assert stack.waiting.memory == "300Mi"


@pytest.mark.parametrize("wrong", [{"fine_tun": {}}, {"every": {"resources": {"memory": "lots"}}}])
def test_sizes_that_are_none_are_named(wrong):
    assert "values.stages" in refusal(lambda: sized(load("kubernetes"), combine([("v", {"stages": wrong})])))


def test_lists_of_pods_are_merged_by_name():
    below = {
        "volumes": [
            {"name": "cache", "persistentVolumeClaim": {"claimName": "a"}},
            {"name": "x", "emptyDir": {}},
        ],
        "tolerations": [{"key": "a"}],
    }
    above = {"volumes": [{"name": "cache", "hostPath": {"path": "/b"}}], "tolerations": [{"key": "b"}]}
    merged = merge(below, above)
    assert merged["volumes"] == [{"name": "cache", "hostPath": {"path": "/b"}}, {"name": "x", "emptyDir": {}}]
    assert merged["tolerations"] == [{"key": "b"}]
    assert below["volumes"][0] == {"name": "cache", "persistentVolumeClaim": {"claimName": "a"}}


TREES = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
SETTINGS = st.dictionaries(st.sampled_from("abc"), TREES, max_size=3)


@given(SETTINGS, SETTINGS)
def test_merging_keeps_what_is_above(below, above):
    def holds(merged, above):
        if not isinstance(above, dict):
            return merged == above
        return all(key in merged and holds(merged[key], value) for key, value in above.items())

    merged = merge(below, above)
    assert holds(merged, above)
    assert merge(merged, above) == merged
    assert merge(below, {}) == below
    assert merge({}, above) == above
