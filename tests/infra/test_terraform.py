"""`infra/terraform`: formatted, valid, tested with a mocked AWS, and described in docs/terraform.md as it is.

The tests need terraform and a folder of provider plugins with hashicorp/aws, laid out as `terraform providers
mirror` does; REGROW_TERRAFORM_MIRROR names one. Nothing is downloaded, and no AWS account is asked.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.terraform
ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "infra" / "terraform"
SUITES = sorted(path.name for path in (SOURCE / "tests").glob("*.tftest.hcl"))


def mirror() -> Path | None:
    """Return the folder of provider plugins: the one that is named, or the first of the usual ones."""
    named = os.environ.get("REGROW_TERRAFORM_MIRROR")
    if named:
        places = [Path(named)]
    else:
        data = Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share"))
        places = [
            SOURCE / ".terraform" / "providers",  # after `terraform init` in the folder itself
            Path.home() / ".terraform.d" / "plugins",
            data / "terraform" / "plugins",
            *(Path(place) / "terraform" / "plugins" for place in ("/usr/local/share", "/usr/share")),
            *sorted(Path("/opt").glob("*")),
        ]
        if cache := os.environ.get("TF_PLUGIN_CACHE_DIR"):
            places.insert(0, Path(cache))
    # Below the folder of whichever registry it was mirrored from.
    return next((place for place in places if any(place.glob("*/hashicorp/aws"))), None)


class Terraform:
    """terraform in a copy of `infra/terraform`, with providers from a folder alone."""

    def __init__(self, folder: Path, plugins: Path) -> None:
        self.folder = folder / "terraform"
        shutil.copytree(
            SOURCE, self.folder, ignore=shutil.ignore_patterns(".terraform", "*.tfstate*", "backend.tf")
        )
        settings = folder / "terraform.rc"
        settings.write_text(
            f'provider_installation {{\n  filesystem_mirror {{\n    path = "{plugins}"\n  }}\n}}\n'
        )
        # Neither the user's settings nor their credentials nor variables take part.
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("TF_", "AWS_"))} | {
            "TF_CLI_CONFIG_FILE": str(settings),
            "TF_IN_AUTOMATION": "1",
            "CHECKPOINT_DISABLE": "1",
            "GOGC": "400",  # the provider is large: a third less time for some memory
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["terraform", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=1800,
        )


@pytest.fixture(scope="module")
def terraform(tmp_path_factory) -> Terraform:
    if not shutil.which("terraform"):
        pytest.skip("terraform is not installed")
    plugins = mirror()
    if plugins is None:
        pytest.skip(
            "no folder with the provider hashicorp/aws: run `terraform init -backend=false` in infra/terraform, "
            "or name a mirror in REGROW_TERRAFORM_MIRROR"
        )
    project = Terraform(tmp_path_factory.mktemp("terraform"), plugins.resolve())
    made = project.run("init", "-backend=false", "-input=false", "-no-color")
    assert made.returncode == 0, made.stderr
    return project


@pytest.fixture(scope="module")
def verdicts(terraform) -> dict[str, list[dict[str, str]]]:
    """Runs of each suite, with what was said about the failed ones, from one `terraform test`."""
    done = terraform.run("test", "-json")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    said: dict[tuple[str, str], list[str]] = {}
    for line in lines:
        if line["type"] == "diagnostic":
            where = (line.get("@testfile", ""), line.get("@testrun", ""))
            said.setdefault(where, []).append(
                f"{line['diagnostic']['summary']}: {line['diagnostic']['detail']}"
            )
    runs: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        if line["type"] == "test_run" and line["test_run"].get("progress") == "complete":
            run = line["test_run"]
            why = "\n".join(said.get((run["path"], run["run"]), []))
            runs.setdefault(Path(run["path"]).name, []).append(
                {"run": run["run"], "status": run["status"], "why": why}
            )
    assert runs, done.stdout + done.stderr
    return runs


def test_files_are_formatted(terraform):
    done = terraform.run("fmt", "-recursive", "-check", "-diff", "-no-color")
    assert done.returncode == 0, done.stdout + done.stderr


def test_configuration_is_valid(terraform):
    done = terraform.run("validate", "-json")
    verdict = json.loads(done.stdout)
    assert verdict["valid"], verdict["diagnostics"]
    assert verdict["warning_count"] == 0, verdict["diagnostics"]


@pytest.mark.parametrize("suite", SUITES)
def test_suite_passes(verdicts, suite):
    written = len(re.findall(r'^run "', (SOURCE / "tests" / suite).read_text(), re.M))
    runs = verdicts.get(suite, [])
    failed = [f"{run['run']}: {run['status']}\n{run['why']}" for run in runs if run["status"] != "pass"]
    assert not failed, "\n".join(failed)
    assert len(runs) == written > 0


def names(kind: str) -> dict[str, str]:
    """Return the blocks of a kind (variable, output) with their text."""
    text = (SOURCE / f"{kind}s.tf").read_text()
    return {
        found["name"]: found["body"]
        for found in re.finditer(rf'^{kind} "(?P<name>\w+)" {{\n(?P<body>.*?)^}}', text, re.M | re.S)
    }


@pytest.mark.parametrize("kind", ["variable", "output"])
def test_every_variable_and_output_is_described(kind):
    blocks = names(kind)
    assert blocks
    bare = [
        name for name, body in blocks.items() if not re.search(r'^  description = "[A-Z].*\."$', body, re.M)
    ]
    assert not bare
    page = (ROOT / "docs" / "terraform.md").read_text()
    section = page.split(f"\n## {kind.capitalize()}s\n", 1)[1].split("\n## ", 1)[0]
    listed = set(re.findall(r"^\| `(\w+)`", section, re.M))
    assert listed == set(blocks)


def test_no_secret_value_passes_through_terraform():
    text = "\n".join(path.read_text() for path in sorted(SOURCE.glob("*.tf")))
    assert not re.search(r"aws_secretsmanager_secret_version|secret_string|^\s*password\s*=", text, re.M)
    assert not re.search(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b", text)
    assert "aws_iam_access_key" not in text
    assert "aws_iam_user" not in text


def test_state_and_answers_stay_out_of_the_repository():
    ignored = (SOURCE / ".gitignore").read_text().split()
    assert {".terraform/", "*.tfstate", "terraform.tfvars", "*.tfplan"} <= set(ignored)


def model(service: str):
    """Return botocore's description of an AWS service."""
    session = pytest.importorskip("botocore.session").Session()
    return session.get_service_model(service)


def test_actions_and_types_exist_in_aws():
    text = "\n".join(path.read_text() for path in sorted(SOURCE.glob("*.tf")))
    # S3 names some actions otherwise than its operations.
    renamed = {"ListBucket": "ListObjectsV2", "ListBucketVersions": "ListObjectVersions"}
    renamed |= {"ListMultipartUploadParts": "ListParts", "DeleteObjectVersion": "DeleteObject"}
    lists = re.findall(r"^ *Action += \[(.*?)\]", text, re.M | re.S)
    granted = re.findall(r'"(\w+):(\w+)"', "".join(lists))
    assert {"s3", "ecr", "eks", "ec2", "autoscaling", "kms", "secretsmanager"} <= {
        service for service, _ in granted
    }
    unknown = [
        f"{service}:{action}"
        for service, action in set(granted)
        if renamed.get(action, action) not in model(service).operation_names
    ]
    assert not unknown
    types = set(re.findall(r"\b[a-z]\w+\.\d*x?large\b", text)) - {"db.t4g.medium"}
    assert types
    assert types <= set(model("ec2").shape_for("InstanceType").enum)
    images = set(re.findall(r'"(AL2023_\w+)"', text))
    assert len(images) == 2
    assert images <= set(model("eks").shape_for("AMITypes").enum)


def test_output_stack_speaks_zenmls_words():
    pytest.importorskip("zenml.integrations.kubernetes.flavors")
    from zenml.container_registries.base_container_registry import BaseContainerRegistryConfig
    from zenml.integrations.kubernetes.flavors import KubernetesOrchestratorConfig
    from zenml.integrations.kubernetes.flavors.kubernetes_step_operator_flavor import (
        KubernetesStepOperatorConfig,
    )
    from zenml.integrations.kubernetes.pod_settings import KubernetesPodSettings
    from zenml.integrations.s3.flavors import S3ArtifactStoreConfig

    kinds = {
        "artifact_store": S3ArtifactStoreConfig,
        "container_registry": BaseContainerRegistryConfig,
        "orchestrator": KubernetesOrchestratorConfig,
        "step_operators": KubernetesStepOperatorConfig,
    }
    body = names("output")["stack"]
    parts = re.split(r"^ {4}(\w+) += {", body, flags=re.M)[1:]
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    assert set(sections) == set(kinds)
    for section, text in sections.items():
        keys = set(re.findall(r"\b([a-z_]+) += ", text)) - {"key", "operator", "effect"}
        known = set(kinds[section].model_fields) | set(KubernetesPodSettings.model_fields)
        assert keys
        assert keys <= known, section
