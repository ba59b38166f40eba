"""Promotion, record and audit on the real servers: MLflow on PostgreSQL, ZenML on MariaDB, files on S3."""

import os

import pytest

from infra.servers import s3
from regrow.audit import resolve
from regrow.cli import main
from regrow.lineage import audit_folder
from regrow.promotion import Record, verify_record
from regrow.registry import RegistrySpec, register
from tests.lineage.made import merged_model
from tests.promotion.test_race import Promoter
from tests.servers.pipeline_client import client, result
from tests.tiny import tiny_checkpoint

pytestmark = pytest.mark.servers
ROUNDS = 10


@pytest.fixture
def tracking(servers, monkeypatch, tmp_path):
    """This process as MLflow's administrator and a client of the store; returns MLflow's client."""
    import mlflow

    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    for name, value in servers.variables.items():
        if not name.startswith("ZENML"):
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(servers.variables["MLFLOW_TRACKING_URI"])
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(before)


def test_alias_and_stage_move_together_on_both_servers_and_the_audit_asks_both(servers, tmp_path):
    seen = result(client(servers, tmp_path / "client", module="tests.servers.promoted"))
    one, two = seen["versions"]
    assert seen["first"] == {"champion": one, "stage first": "production", "stage second": None}
    assert seen["second"] == {"champion": two, "stage first": "archived", "stage second": "production"}
    back = {"champion": one, "stage first": "production", "stage second": "archived"}
    assert seen["rolled back"] == back
    assert [line["state"] for line in seen["record"]["lines"]] == ["done"] * 3
    assert seen["record"]["problems"] == []
    audit = seen["audit"]
    assert (audit["verified"], audit["failures"], audit["exit_status"]) == (True, [], 0)
    passed = {check["what"] for check in audit["checks"] if check["outcome"] == "passed"}
    assert passed >= {
        "digest of the version",
        "statement of the version",
        "registration",
        "promotion record",
        "ZenML",
    }
    former = seen["audit of the former"]
    assert (former["failures"], former["exit_status"]) == ([], 0)
    assert "ZenML" in {check["what"] for check in former["checks"] if check["outcome"] == "passed"}
    moved = seen["moved by hand"]
    assert moved["exit_status"] == 3
    assert [(one["what"], one["expected"], one["found"]) for one in moved["failures"]] == [
        ("the registries differ in stage", "production", "archived")
    ]
    assert seen["repaired"] == back


def test_a_copy_on_s3_is_audited_and_one_bit_there_is_found(servers, tracking, tmp_path):
    model = merged_model(tmp_path)
    register(model, RegistrySpec(name="on-s3"), tags={}, metrics={})
    store = s3.client(servers.home, "client")
    for file in sorted(model.folder.rglob("*")):
        if file.is_file():
            key = f"models/merged/{file.relative_to(model.folder).as_posix()}"
            store.put_object(Bucket=s3.ZENML_BUCKET, Key=key, Body=file.read_bytes())
    target = f"s3://{s3.ZENML_BUCKET}/models/merged"
    with resolve(target) as found:
        clean = audit_folder(found.folder, around=found.around, others=found.others, target=found.name)
    assert (clean.failures, clean.digest) == ([], model.digest)
    # The registry that is configured knows the digest, and is held against it.
    assert "digest of the version" in {check.what for check in clean.checks if check.outcome == "passed"}
    weights = bytearray((model.folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    store.put_object(Bucket=s3.ZENML_BUCKET, Key="models/merged/model.safetensors", Body=bytes(weights))
    with resolve(target) as found:
        bad = audit_folder(found.folder, around=found.around, others=found.others, target=found.name)
    assert any(one.what == "tensor changed" and "model.safetensors: " in one.where for one in bad.failures)
    assert main(["audit", target]) == 3
    assert main(["audit", f"s3://{s3.ZENML_BUCKET}/models/none"]) == 2


def test_of_two_promoters_on_postgresql_one_wins_each_race(servers, tracking, tmp_path):
    name = "grass"  # what the promoters promote
    done = len(record.lines()) if (record := Record.find(tracking, name)) else 0
    versions = [
        register(
            tiny_checkpoint(tmp_path / str(seed), seed=seed), RegistrySpec(name=name), tags={}, metrics={}
        ).version
        for seed in (1, 2, 3)
    ]
    both = [Promoter(who) for who in ("ann", "bob")]
    try:
        assert [one.hear() for one in both] == ["ready", "ready"]
        for one in both:
            one.tell(f"use {os.environ['MLFLOW_TRACKING_URI']}")
        assert [one.hear() for one in both] == ["ready", "ready"]
        champion = tracking.get_registered_model(name).aliases.get("champion")
        for _ in range(ROUNDS):
            free = [one for one in versions if one != str(champion)]
            for promoter, version in zip(both, free, strict=False):
                promoter.tell(f"decide {version}")
            assert [one.hear() for one in both] == ["decided", "decided"]
            for promoter in both:
                promoter.tell("go")
            said = [one.hear() for one in both]
            assert sorted(one[:4] for one in said) == ["lost", "prom"], said
            champion = str(tracking.get_model_version_by_alias(name, "champion").version)
            assert champion == free[said.index("promoted")]
    finally:
        for one in both:
            one.process.stdin.close()
            one.process.wait(60)
    assert [line.state for line in Record.find(tracking, name).lines()] == ["done"] * (done + ROUNDS)
    assert verify_record(tracking, name) == []
