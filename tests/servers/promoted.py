"""Two versions of a model in both registries, promoted and audited: `python -m tests.servers.promoted`.

Run by the tests in a process of its own, with the variables that `python -m infra.servers env` prints: MLflow on
PostgreSQL, ZenML on MariaDB.
"""

import json
import os
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import mlflow
from zenml import log_metadata
from zenml.client import Client

from regrow.checkpoint import Checkpoint
from regrow.cli import main
from regrow.lineage import attest, describe_checkpoint, embed
from regrow.registry import RegistrySpec, register
from tests.lineage.made import merged_model
from tests.lineage.models import HUB
from tests.tiny import tiny_checkpoint

# Servers may be kept for several runs of the tests.
MODEL = f"in-both-{uuid.uuid4().hex[:8]}"
POLICY = """
staging: {data_gate: ignored, licences: null, attestation: {required: false}}
champion: {data_gate: ignored, licences: null, attestation: {required: false}}
"""


def in_both(checkpoint: Checkpoint, named: str, **tags: str) -> str:
    """Register a checkpoint in MLflow and as a version of the model in ZenML; return MLflow's number."""
    client = Client()
    try:
        model = client.get_model(MODEL)
    except KeyError:
        model = client.create_model(MODEL)
    client.create_model_version(model.id, name=named)
    done = register(
        checkpoint, RegistrySpec(name=MODEL), tags={"zenml.model_version": named, **tags}, metrics={}
    )
    facts = done.facts | {"mlflow_version": done.version, "mlflow_uri": done.uri}
    log_metadata(facts, model_name=MODEL, model_version=named)
    return done.version


def regrow(*words: str) -> dict[str, Any]:
    """Run a command with --json, and return what it printed."""
    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile("w+") as printed:
        os.dup2(printed.fileno(), 1)
        try:
            status = main([*words, "--json"])
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        printed.seek(0)
        found: dict[str, Any] = json.load(printed)
    assert found["exit_status"] == status
    return found


def state() -> dict[str, str | None]:
    """Who is champion, and in which stage the versions are."""
    aliases = mlflow.MlflowClient().get_registered_model(MODEL).aliases
    stages = {one.name: one.stage for one in Client().list_model_versions(model_name_or_id=MODEL).items}
    return {
        "champion": str(aliases.get("champion")),
        **{f"stage {name}": stages[name] for name in sorted(stages)},
    }


def run(folder: Path) -> dict[str, Any]:
    """Do it all, and say what was seen on the way."""
    (folder / "policy.yaml").write_text(POLICY)
    policy = ("--policy", str(folder / "policy.yaml"))
    one = in_both(merged_model(folder / "one"), "first")
    other = tiny_checkpoint(folder / "two", seed=7)
    embed(other.folder, attest("load_model", describe_checkpoint(other), [HUB], parameters={}))
    two = in_both(other, "second")
    seen: dict[str, Any] = {"versions": [one, two]}
    seen["first"] = regrow("promote", MODEL, one, "--to", "champion", *policy) and state()
    seen["second"] = regrow("promote", MODEL, two, "--to", "champion", *policy) and state()
    seen["rolled back"] = regrow("promote", MODEL, "--rollback", *policy) and state()
    seen["record"] = regrow("promote", MODEL, "--record")
    seen["audit"] = regrow("audit", f"models:/{MODEL}@champion")
    seen["audit of the former"] = regrow("audit", f"models:/{MODEL}/{two}")
    Client().get_model_version(MODEL, "second").set_stage("production", force=True)
    seen["moved by hand"] = regrow("audit", f"models:/{MODEL}@champion")
    seen["repaired"] = regrow("promote", MODEL, "--repair") and state()
    return seen


if __name__ == "__main__":
    sys.stdout.write(f"\nRESULT {json.dumps(run(Path.cwd()))}\n")
