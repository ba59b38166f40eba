"""What each step of a compiled pipeline asks the cluster for."""

import json
import textwrap

import pytest
from kubernetes_validate import ValidationError, validate

from infra.stacks.schema import load
from regrow.tune.pods import launch_of
from tests.infra.test_stacks import VALUES
from tests.pipelines.project import Project

IMAGES = {
    name: f"10.0.0.1:5000/regrow-{name}@sha256:{name}" for name in ("base", "tune", "generate", "evaluate")
}
# ZenML compiles the pipeline and says which images it would build; nothing is submitted.
PROGRAM = """
import json, sys
from pathlib import Path
from infra.local.stack import use_root
use_root(Path.cwd())
import yaml
from zenml.client import Client
from infra.stacks.register import up
from infra.stacks.schema import load
from infra.stacks.values import combine
from pipelines import remote
from pipelines.compress import compress
from pipelines.promote import promote
from pipelines.study import study
from regrow.config import CompressConfig, read_config
from regrow.errors import InputError
from regrow.promotion import Policy
from regrow.study import StudyConfig
from regrow.tune.recipe import Sft

client, noted = Client(), {}
for name, keys in {
    "regrow-s3": ("aws_access_key_id", "aws_secret_access_key"), "regrow-mlflow": ("username", "password"),
}.items():
    client.create_secret(name, values=dict.fromkeys(keys, "x"))
values = json.loads(Path("values.json").read_text())

def register(**more):
    up(load("kubernetes"), combine([("values.json", values | more)]))
    client.activate_stack("kubernetes")

def compiled(pipeline, fields, own):
    # As pipelines.launch does it, short of calling the pipeline.
    Path("own.yaml").write_text(yaml.safe_dump(remote.with_stages(pipeline, fields, own)))
    one = pipeline.with_options(config_path="own.yaml")
    one.prepare(**fields)
    snapshot, _, _ = one._compile(config_path="own.yaml")
    return snapshot

def steps(snapshot):
    return {
        name: {
            "operator": step.config.step_operator, "retry": step.config.retry and step.config.retry.max_retries,
            "environment": step.config.environment, "extra": step.config.extra, "after": step.spec.upstream_steps,
            "command": step.config.command,
            "docker": step.config.docker_settings.model_dump(mode="json", exclude_unset=True),
            "settings": {
                key: one.model_dump(mode="json", exclude_unset=True) for key, one in step.config.settings.items()
            },
        }
        for name, step in snapshot.step_configurations.items()
    }

parameters, _ = read_config(Path("configs/demo.yaml"), CompressConfig)
fields = {name: getattr(parameters, name) for name in type(parameters).model_fields}
register(stages={"evaluate": {"resources": {"memory": "33Gi"}}})
snapshot = compiled(compress, fields, {})
noted["plain"] = steps(snapshot)
noted["mode"] = snapshot.pipeline_configuration.execution_mode.value
noted["builds"] = {f"{one.key} {one.step_name}": [one.settings.skip_build, one.settings.parent_image]
                   for one in client.active_stack.get_docker_builds(snapshot=snapshot)}
def vllm(spec):
    return spec.model_copy(update={"engine": "vllm"})

# One set has settings of its own.
datasets = [one.model_copy(update={"self_data": fields["self_data"]}) if one.name == "arc" else one
            for one in fields["datasets"]]
noted["vllm"] = steps(compiled(compress, fields | {"self_data": vllm(fields["self_data"]), "datasets": datasets}, {}))
own = {
    "settings": {"docker": {"dockerfile": "infra/docker/Dockerfile"}},
    "steps": {
        "fine_tune_science": {
            "retry": {"max_retries": 7},
            "settings": {"step_operator.kubernetes": {"pod_settings": {
                "resources": {"limits": {"memory": "200Gi"}, "requests": {"cpu": "2500m"}},
                "volumes": [{"name": "more", "emptyDir": {}}],
            }}},
        },
        "fine_tune_arc": {"step_operator": None, "settings": {"docker": {"parent_image": "mine", "skip_build": True}}},
    },
}
noted["own"] = steps(compiled(compress, fields, own))
try:
    compiled(compress, fields, {"steps": {"prune": {"step_operator": "tpu"}}})
except InputError as error:
    noted["no such operator"] = str(error)
register(stages={"fine_tune": {"pods": 3}})
noted["pods"] = remote.tuning_pods([Sft(batch_size=6)])
try:
    remote.tuning_pods([Sft(batch_size=8)])
except InputError as error:
    noted["odd batch"] = str(error)
cells, _ = read_config(Path("configs/study-smollm2.yaml"), StudyConfig)
cells = cells.model_copy(update={"blocks": [3], "seeds": [0]})
noted["study"] = steps(compiled(study, {"config": cells, "tune_pods": 3}, {}))
noted["shared"] = steps(compiled(compress, fields | {"tune_pods": 3}, {}))
def without_image(pipeline, fields, own, *names):
    register(images={name: one for name, one in values["images"].items() if name not in names})
    try:
        return steps(compiled(pipeline, fields, own))
    except InputError as error:
        return str(error)

noted["no images"] = without_image(compress, fields, {}, *values["images"])
noted["no generate"] = without_image(compress, fields, {}, "generate")
noted["no tune"] = without_image(compress, fields, {}, "tune")
tunes = {name: {"settings": {"docker": {"parent_image": "mine", "skip_build": True}}} for name in noted["plain"]
         if name.startswith(("fine_tune", "generate_self_data"))}
noted["no tune needed"] = without_image(compress, fields, {"steps": tunes}, "tune", "generate")
own = {"settings": {"docker": {"parent_image": "mine", "skip_build": True}}}
noted["all of its own"] = without_image(compress, fields, own, *values["images"])
decision = {"name": "m", "version": "1", "target": "staging", "policy": Policy(), "reason": None}
noted["promote"] = without_image(promote, decision, {}, "tune", "generate", "evaluate")
from zenml.integrations.kubernetes.flavors import KubernetesStepOperatorSettings
from zenml.integrations.kubernetes.manifest_utils import build_pod_manifest
from kubernetes.client import ApiClient
pod = KubernetesStepOperatorSettings(**noted["plain"]["fine_tune_science"]["settings"]["step_operator:gpu"])
noted["pod"] = ApiClient().sanitize_for_serialization(build_pod_manifest(
    pod_name=None, image_name="image", command=["python"], args=[], privileged=pod.privileged,
    pod_settings=pod.pod_settings, service_account_name=pod.service_account_name,
))
from zenml.integrations.kubernetes import kube_utils
from zenml.integrations.kubernetes.manifest_utils import (
    build_headless_service_manifest, build_job_manifest, pod_template_manifest_from_pod,
)
shared = noted["shared"]["fine_tune_science"]
settings = KubernetesStepOperatorSettings(**shared["settings"]["step_operator:gpu"])
name = kube_utils.multi_pod_job_name("fine-tune-science", settings.pod_count)
told = kube_utils.multi_pod_environment(job_name=name, namespace="regrow", pod_count=settings.pod_count)
job = build_job_manifest(
    job_name=name, backoff_limit=0, pod_count=settings.pod_count,
    pod_template=pod_template_manifest_from_pod(build_pod_manifest(
        pod_name=None, image_name="image", command=shared["command"], args=[], privileged=settings.privileged,
        pod_settings=settings.pod_settings, service_account_name=settings.service_account_name, env=told,
    )),
)
whole = ApiClient().sanitize_for_serialization(job)
noted["job"] = whole | {"apiVersion": "batch/v1", "kind": "Job"}
job.metadata.uid, job.api_version, job.kind = "7", "batch/v1", "Job"
service = ApiClient().sanitize_for_serialization(build_headless_service_manifest(job))
noted["service"] = service | {"apiVersion": "v1", "kind": "Service"}
def refused(path):
    parameters, _ = read_config(Path(path), CompressConfig)
    try:
        remote.demand_reachable(parameters)
    except InputError as error:
        return str(error)

noted["demo"] = refused("configs/demo.yaml")
noted["paths"] = refused("paths.yaml")
noted["cached"] = refused("cached.yaml")
try:
    remote.demand_server("kubernetes")
except InputError as error:
    noted["server"] = str(error)
print("NOTED " + json.dumps(noted))
"""


def paths(**more) -> dict:
    return {
        "parameters": {
            "model": {"source": "models/base", **more},
            "calibration": {"name": "texts", "source": "data/texts.jsonl", **more},
            "datasets": [{"name": "plants", "source": "data/plants.jsonl", "adapter": "alpaca", **more}],
            "self_data": {
                "engine": "endpoint",
                "endpoint": {"url": "http://localhost:8000/v1", "model": "m"},
            },
            "evaluation": {
                "tasks": [
                    {"name": "arc_easy", "source": "data/arc.jsonl", "fewshot_source": "data/few.jsonl"}
                ],
            },
            "registry": {"name": "tiny"},
        }
    }


def cached() -> dict:
    """The same, on the volume that pods mount."""
    text = (
        json.dumps(paths(sha256="0" * 64))
        .replace('"models/', '"/cache/models/')
        .replace('"data/', '"/cache/data/')
    )
    config = json.loads(text.replace("http://localhost:8000", "http://vllm.regrow:8000"))
    config["parameters"]["evaluation"]["tasks"][0] |= {"sha256": "0" * 64, "fewshot_sha256": "0" * 64}
    return config


@pytest.fixture(scope="module")
def noted(tmp_path_factory) -> dict:
    project = Project(tmp_path_factory.mktemp("settings"))
    (project.folder / "values.json").write_text(json.dumps(VALUES | {"images": IMAGES}))
    project.write_config(paths(), "paths.yaml")
    project.write_config(cached(), "cached.yaml")
    lines = project.python(textwrap.dedent(PROGRAM)).splitlines()
    return json.loads(next(line for line in lines if line.startswith("NOTED ")).removeprefix("NOTED "))


def given(value):
    """What of an object the API server sees: fields that are null are none."""
    if isinstance(value, dict):
        return {key: given(one) for key, one in value.items() if one is not None}
    return [given(one) for one in value] if isinstance(value, list) else value


def worker(step: dict) -> dict:
    """The pod settings of the pod that does a step's work."""
    key = f"step_operator:{step['operator']}" if step["operator"] else "orchestrator:regrow-kubernetes"
    return step["settings"][key]["pod_settings"]


def test_gpus_are_asked_for_by_the_stages_that_compute_and_by_no_other(noted):
    gpu = {
        name: worker(step)["resources"]["limits"].get("nvidia.com/gpu")
        for name, step in noted["plain"].items()
    }
    on = {name for name, count in gpu.items() if count == "1"}
    assert on == {
        "compute_layer_importance", "generate_self_data_science", "generate_self_data_arc", "fine_tune_science",
        "fine_tune_arc", "measure_shift_science", "measure_shift_arc", "measure_speed", "evaluate_base",
        "evaluate_pruned", "evaluate_tuned-science", "evaluate_tuned-arc", "evaluate_merged", "measure_drift_pruned",
        "measure_drift_tuned-science", "measure_drift_tuned-arc", "measure_drift_merged",
    }  # fmt: skip
    assert {noted["plain"][name]["operator"] for name in on} == {"gpu"}
    rest = set(noted["plain"]) - on
    assert {noted["plain"][name]["operator"] for name in rest} == {None}
    assert {gpu[name] for name in rest} == {None}
    # The pod that waits for a step operator's takes no GPU and goes to no GPU node.
    for name in on:
        waiting = noted["plain"][name]["settings"]["orchestrator:regrow-kubernetes"]["pod_settings"]
        assert waiting["resources"]["requests"] == {
            "cpu": "100m",
            "memory": "2Gi",
            "ephemeral-storage": "1Gi",
        }
        assert "tolerations" not in waiting
        assert "node_selectors" not in waiting


def test_each_stage_has_its_image_retries_and_account(noted):
    plain = noted["plain"]
    expected = {
        "prune": "base",
        "fine_tune_arc": "tune",
        "generate_self_data_arc": "tune",
        "evaluate_base": "evaluate",
    }
    for name, image in expected.items():
        docker = plain[name]["docker"]
        assert (docker["parent_image"], docker["skip_build"]) == (IMAGES[image], True)
        assert docker["allow_download_from_artifact_store"] is False
    # Every build of the pipeline is an image that is there.
    assert all(skip and image in IMAGES.values() for skip, image in noted["builds"].values())
    assert plain["fine_tune_arc"]["retry"] == 3
    assert plain["validate_data_arc"]["retry"] is None
    assert plain["fine_tune_arc"]["extra"] == {"regrow": {"stage": "fine_tune", "gpus": 1, "cpus": 8.0}}
    assert worker(plain["evaluate_base"])["resources"]["limits"]["memory"] == "33Gi"  # of the values


def test_generation_has_the_image_of_its_engine(noted):
    image = {name: step["docker"]["parent_image"] for name, step in noted["vllm"].items()}
    assert image["generate_self_data_science"] == IMAGES["generate"]
    assert image["generate_self_data_arc"] == IMAGES["tune"]  # whose own settings say transformers
    (told,) = (
        one["value"]
        for one in worker(noted["vllm"]["generate_self_data_science"])["env"]
        if one["name"] == "REGROW_IMAGE"
    )
    assert told == IMAGES["generate"]
    # Nobody needs vLLM's image for another engine.
    assert "generate_self_data_arc" in noted["no generate"]


def test_a_pod_knows_its_image_and_a_retried_one_finds_its_work(noted):
    told = {
        name: {one["name"]: one["value"] for one in worker(step)["env"]}
        for name, step in noted["plain"].items()
    }
    assert told["prune"]["REGROW_IMAGE"] == IMAGES["base"]
    assert told["fine_tune_arc"]["REGROW_IMAGE"] == IMAGES["tune"]
    work = {one["REGROW_WORK"] for one in told.values()}
    assert len(work) == 1
    assert work.pop().startswith("/cache/work/compress-")
    # ZenML's own environment of a step is part of its cache key: every new image would run everything again.
    assert {json.dumps(step["environment"]) for step in noted["plain"].values()} == {"{}"}


def test_the_pod_that_kubernetes_gets(noted):
    pod = noted["pod"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["terminationGracePeriodSeconds"] == 600
    assert pod["priorityClassName"] == "regrow-pipeline"
    assert pod["serviceAccountName"] == "regrow-step"
    assert pod["nodeSelector"] == {"regrow/pool": "gpu"}
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in pod["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert {"name": "cache", "mountPath": "/cache"} in container["volumeMounts"]
    # Pod Security "restricted".
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    security = container["securityContext"]
    assert (security["allowPrivilegeEscalation"], security["privileged"]) == (False, False)
    assert security["capabilities"] == {"drop": ["ALL"]}


def test_batches_that_the_pods_cannot_share_are_refused_before_anything_runs(noted):
    assert "recipe.batch_size 8: cannot be shared by 3 processes" in noted["odd batch"]


def test_every_arm_of_a_study_is_tuned_by_several_pods(noted):
    arms = {name: step for name, step in noted["study"].items() if name.startswith("fine_tune_")}
    assert len(arms) == 5  # SFT, self-data, distillation, and merged's two
    for name, step in arms.items():
        assert step["settings"]["step_operator:gpu"]["pod_count"] == 3 and step["command"]
        assert f"pods/{name}" in step["command"][-1]
        assert step["after"] == [f"lay_out_{name}"] and f"collect_{name}" in noted["study"]


def test_autoscalers_leave_the_pods_of_a_run_alone(noted):
    kept = {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    # The pod that works, those that wait for a step operator's, and the orchestrator's.
    assert noted["pod"]["metadata"]["annotations"] == kept
    for step in noted["plain"].values():
        pods = [one["pod_settings"] for one in step["settings"].values() if "pod_settings" in one]
        assert pods
        assert all(pod["annotations"] == kept for pod in pods)
    for name, places in {
        "kubernetes": ("pod_settings", "orchestrator_pod_settings"),
        "kubeflow": ("pod_settings",),
    }.items():
        settings = load(name).components.orchestrator.settings
        assert [settings[place]["annotations"] for place in places] == [kept] * len(places)


def test_tuning_in_several_pods_is_one_command_between_two_steps(noted):
    shared = noted["shared"]
    assert noted["pods"] == 3
    tune = shared["fine_tune_science"]
    assert tune["settings"]["step_operator:gpu"]["pod_count"] == 3
    assert worker(tune)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert tune["extra"] == {"regrow": {"stage": "fine_tune", "gpus": 3, "cpus": 24.0, "pods": 3}}
    assert (tune["operator"], tune["retry"], tune["docker"]["parent_image"]) == ("gpu", 3, IMAGES["tune"])
    assert tune["after"] == ["lay_out_fine_tune_science"]
    assert "regrow tune given/model --data given/data" in tune["command"][-1]
    assert '"$REGROW_WORK/pods/fine_tune_science"' in tune["command"][-1]
    assert set(shared["lay_out_fine_tune_science"]["after"]) == {"prune", "validate_data_science"}
    assert set(shared["collect_fine_tune_science"]["after"]) == {
        "lay_out_fine_tune_science",
        "fine_tune_science",
    }
    for name in ("lay_out_fine_tune_science", "collect_fine_tune_science"):
        assert shared[name]["operator"] is None
        assert "nvidia.com/gpu" not in worker(shared[name])["resources"]["limits"]
    assert {"collect_fine_tune_science", "collect_fine_tune_arc"} <= set(shared["merge"]["after"])
    # All else is as with one pod, and only this step has several.
    rest = {name: step for name, step in shared.items() if "fine_tune" not in name}
    assert rest.keys() == {name for name in noted["plain"] if "fine_tune" not in name}
    assert not any("pod_count" in json.dumps(step["settings"]) for step in rest.values())


@pytest.mark.parametrize("version", ["1.25", "1.31", "1.34"])
def test_the_indexed_job_of_several_pods_is_valid_where_they_exist(noted, version):
    # The test cluster's Kubernetes 1.20 drops these fields without a word.
    job, service = given(noted["job"]), given(noted["service"])
    validate(job, version, strict=True)
    validate(service, version, strict=True)
    assert job["spec"]["completionMode"] == "Indexed"
    assert (job["spec"]["completions"], job["spec"]["parallelism"], job["spec"]["backoffLimit"]) == (3, 3, 0)
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"] == job["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    told = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
    # What Kubernetes adds to it in each pod.
    launch = launch_of(told | {"JOB_COMPLETION_INDEX": "2"})
    name = job["metadata"]["name"]
    assert (launch.nodes, launch.node_rank, launch.main_address) == (3, 2, f"{name}-0.{name}.regrow.svc")
    broken = json.loads(json.dumps(job))
    broken["spec"]["completionMod"] = broken["spec"].pop("completionMode")
    with pytest.raises(ValidationError):
        validate(broken, version, strict=True)


def test_the_run_configuration_wins(noted):
    own = noted["own"]["fine_tune_science"]
    assert own["retry"] == 7
    pod = worker(own)
    assert pod["resources"]["limits"]["memory"] == "200Gi"
    assert own["extra"]["regrow"]["cpus"] == 2.5
    assert pod["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert [volume["name"] for volume in pod["volumes"]] == ["cache", "shm", "more"]
    # Its docker section takes the place of the stack's images; a step's own that of both.
    assert own["docker"] == {"dockerfile": "infra/docker/Dockerfile"}
    arc = noted["own"]["fine_tune_arc"]
    assert arc["operator"] is None
    assert arc["docker"]["parent_image"] == "mine"
    assert worker(arc)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "step_operator tpu: the stack kubernetes has gpu" in noted["no such operator"]


def test_a_run_whose_images_are_not_named_is_refused_with_its_stages(noted):
    said = noted["no tune"]
    assert "no image tune (for " in said
    assert "fine_tune" in said
    assert "python -m infra.docker build tune --registry HOST --push" in said
    assert "evaluate" not in said
    said = noted["no images"]
    for image, stage in (("base", "the orchestrator"), ("evaluate", "compute_layer_importance")):
        assert f"{image} (for {stage}" in said
    # A docker section of the run configuration's own stands in for the image.
    assert noted["no tune needed"]["fine_tune_arc"]["docker"]["parent_image"] == "mine"
    assert noted["no tune needed"]["prune"]["docker"]["parent_image"] == IMAGES["base"]
    assert not any(
        step["docker"].get("parent_image") in IMAGES.values() for step in noted["all of its own"].values()
    )


def test_promotion_runs_without_gpus_and_is_not_tried_again(noted):
    for step in noted["promote"].values():
        assert step["operator"] is None
        assert step["retry"] is None
        assert "nvidia.com/gpu" not in worker(step)["resources"]["limits"]


def test_a_failed_gate_ends_the_run_before_tuning_asks_for_a_gpu(noted):
    assert noted["mode"] == "fail_fast"
    for name in ("science", "arc"):
        assert f"validate_data_{name}" in noted["plain"][f"fine_tune_{name}"]["after"]
        assert noted["plain"][f"validate_data_{name}"]["operator"] is None


def test_what_pods_cannot_read_is_named_before_anything_starts(noted):
    assert noted["demo"] is None
    said = noted["paths"]
    for field in (
        "parameters.model.source models/base",
        "parameters.calibration.source data/texts.jsonl",
        "parameters.datasets.plants.source data/plants.jsonl",
        "parameters.evaluation.tasks.arc_easy.source data/arc.jsonl",
        "parameters.evaluation.tasks.arc_easy.fewshot_source data/few.jsonl",
        "parameters.self_data.endpoint.url http://localhost:8000/v1",
    ):
        assert field in said
    assert "below /cache of the pods" in said
    assert noted["cached"] is None


def test_pods_need_a_zenml_server(noted):
    assert "cannot reach ZenML's database on this machine" in noted["server"]
