"""The base image as it runs: built from this checkout, or the one that REGROW_TEST_IMAGES or runs/images.json names."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.docker import registry
from infra.docker.builders import find_builder
from infra.docker.context import ROOT
from infra.docker.sbom import bill_of_materials
from regrow.files import read_json

pytestmark = pytest.mark.cluster

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


class Image:
    """An image, and what commands say in it."""

    def __init__(self, builder, reference):
        self.builder, self.reference = builder, reference
        self.insecure = registry.is_insecure(reference)

    def says(self, *command):
        return self.builder.run(self.reference, command, insecure=self.insecure).strip()

    def shell(self, script):
        return self.says("sh", "-c", script)

    def python(self, code):
        return self.says("python", "-W", "ignore", "-c", code).splitlines()[-1]

    @property
    def settings(self):
        said = self.builder.ask(["inspect", "--type", "image", self.reference])
        return json.loads(said)["OCIv1"]["config"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    if os.geteuid() != 0:
        pytest.skip("running an image here needs root")
    if not shutil.which("buildah"):
        pytest.skip("buildah is not here: apt-get install buildah")
    builder = find_builder("buildah")
    known = Path(os.environ.get("REGROW_TEST_IMAGES", ROOT / "runs/images.json"))
    if known.is_file() and "base" in read_json(known):
        reference = read_json(known)["base"]
    else:
        if not shutil.which("mmdebstrap"):
            pytest.skip("there is no image yet, and nothing to make one of: apt-get install mmdebstrap")
        out = tmp_path_factory.mktemp("images") / "images.json"
        command = [sys.executable, "-m", "infra.docker", "build", "base", "--builder", "buildah"]
        command += ["--base", "rootfs", "--out", str(out)]
        said = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        reference = said.stdout.split()[1]
    image = Image(builder, reference)
    image.says("true")  # pulls it
    return image


def test_it_runs_as_a_user_that_may_not_change_the_code(base):
    assert base.shell("id -u; id -g") == "1000\n1000"
    assert base.shell("command -v python; pwd; echo $HOME") == "/opt/regrow/bin/python\n/app\n/home/regrow"
    assert base.shell("touch ~/x /app/x /app/.zen/x && echo writable") == "writable"
    for place in ("/app/regrow/x", "/opt/regrow/x", "/etc/x"):
        assert base.shell(f"touch {place} 2>/dev/null || echo refused") == "refused"


def test_everything_that_pods_start_is_there(base):
    modules = "regrow, zenml, mlflow, torch, psycopg2, pymysql, kubernetes, s3fs, boto3, flask_wtf, steps, pipelines"
    said = base.python(f"import {modules}, materializers, infra; print(regrow.__file__, torch.version.cuda)")
    assert said == "/app/regrow/__init__.py None"
    assert "usage: regrow" in base.says("regrow", "--help")
    assert "entrypoint" in base.shell("python -m zenml.entrypoints.entrypoint --help 2>&1; true")
    assert "Usage" in base.says("mlflow", "server", "--help")
    assert "zen_server_api" in base.python(
        "import zenml.zen_server.zen_server_api as api; print(api.__name__)"
    )


def test_it_knows_its_code(base):
    record = json.loads(base.says("cat", "/app/.code.json"))
    assert re.fullmatch("[0-9a-f]{40}", record["commit"])
    said = base.python(
        "from regrow.lineage.environment import builder; "
        "print([x.digest for x in builder().builder_dependencies if x.name == 'code'])"
    )
    assert said == str([{"gitCommit": record["commit"]}])
    labels = {
        name.rpartition("org.opencontainers.image.")[2]: text
        for name, text in base.settings["Labels"].items()
    }
    assert labels["title"] == "regrow-base" and labels["description"]
    assert labels["revision"] == record["commit"] + ("-dirty" if record["dirty"] else "")
    assert labels["version"] == base.python("import regrow; print(regrow.__version__)")
    if not record["dirty"]:
        names = ["regrow/checkpoint.py", "steps/__init__.py", "pyproject.toml"]
        for name in names:
            done = subprocess.run(
                ["git", "-C", ROOT, "show", f"{record['commit']}:{name}"],
                capture_output=True,
                text=True,
                check=True,
            )
            assert base.says("cat", f"/app/{name}") == done.stdout.strip(), name


def test_nothing_of_the_build_machine_stays(base):
    settings = base.settings
    names = {one.partition("=")[0] for one in settings["Env"]}
    assert names == {
        "GX_ANALYTICS_ENABLED",
        "HOME",
        "PATH",
        "PYTHONUNBUFFERED",
        "TOKENIZERS_PARALLELISM",
        "VIRTUAL_ENV",
        "ZENML_ANALYTICS_OPT_IN",
    }
    assert settings["User"] == "1000:1000" and not settings.get("Entrypoint")
    # A mount may leave its empty mount point; nothing may be in one.
    places = "/run/secrets /wheels /tools /var/cache/uv /root/.cache /root/.config /etc/pip.conf /app/.git"
    assert base.shell(f"for one in {places}; do find $one -type f -size +0 2>/dev/null; done; true") == ""


def test_no_key_and_no_certificate_of_the_build_machine_is_in_it(base):
    keys = base.shell(
        "grep -rlI -e '-----BEGIN [A-Z ]*PRIVATE KEY' / --include=* --exclude-dir=proc --exclude-dir=sys "
        "--exclude-dir=site-packages 2>/dev/null; true"
    )
    assert keys == ""
    names = r"find / -xdev \( -name .env -o -name .netrc -o -name credentials -o -name 'id_[re]*' \) 2>/dev/null; true"
    assert [
        one for one in base.shell(names).splitlines() if not one.startswith(("/proc/", "/opt/regrow/"))
    ] == []
    host = Path("/etc/ssl/certs/ca-certificates.crt")
    if host.is_file():
        there = set(_CERTIFICATE.findall(base.says("cat", str(host))))
        assert there, "Debian's own certificates are in it"
        public = {
            found
            for one in Path("/usr/share/ca-certificates").rglob("*.crt")
            for found in _CERTIFICATE.findall(one.read_text())
        }
        only_here = set(_CERTIFICATE.findall(host.read_text())) - public
        assert not there & only_here, "a certificate that only this machine trusts is in the image"


def test_its_bill_lists_torch_and_every_debian_package(base):
    found = json.loads(base.says("python", "-m", "infra.docker.inventory"))
    bill = bill_of_materials("regrow-base", base.reference, found)
    by_kind = {
        kind: {
            one["name"]: one["version"] for one in bill["components"] if one.get("purl", "").startswith(kind)
        }
        for kind in ("pkg:pypi/", "pkg:deb/")
    }
    pin = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert by_kind["pkg:pypi/"]["torch"].partition("+")[0] == pin[1]
    paragraphs = base.says("cat", "/var/lib/dpkg/status").split("\n\n")
    installed = {
        re.search(r"^Package: (\S+)$", one, re.MULTILINE)[1]
        for one in paragraphs
        if "\nStatus: install ok installed\n" in one
    }
    assert set(by_kind["pkg:deb/"]) == installed and {"libc6", "python3.11"} <= installed
