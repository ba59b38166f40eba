"""A version that is registered again, from another commit or environment than the one that made it."""

import json

import pytest

from regrow.audit import resolve
from regrow.checkpoint import Checkpoint
from regrow.cli import main
from regrow.lineage import attest, audit_folder, chain, describe_checkpoint, embed
from regrow.registry import LicenceChain, RegistrySpec, find, register
from tests.lineage.models import HUB
from tests.registry.stored import store
from tests.tiny import tiny_checkpoint

SPEC = RegistrySpec(name="tiny")
FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def artifact(server, tmp_path, monkeypatch):
    """A stored model, registered at the first commit as a pipeline does; the present commit is the second."""
    model = tiny_checkpoint(tmp_path / "model")
    embed(model.folder, attest("load_model", describe_checkpoint(model), [HUB], parameters={}))
    folder = store(model, tmp_path / "store" / "one")
    monkeypatch.setenv("REGROW_COMMIT", FIRST)
    tags = {"regrow.plan": "p" * 64, "zenml.model_version": "3"}
    done = register(
        model,
        SPEC,
        tags=tags,
        metrics={"recovery": 0.5},
        stored=str(folder),
        licences=LicenceChain.of("MIT", {}),
    )
    monkeypatch.setenv("REGROW_COMMIT", SECOND)
    return folder, done


def again(folder, *more: str) -> None:
    assert main(["register", str(folder / "checkpoint"), "--name", "tiny", "--json", *more]) == 0


def audited(done) -> list[tuple[str, str, str]]:
    """What differs, where ZenML says what the first registration told it."""
    facts = done.facts | {"mlflow_version": done.version, "stage": "none"}
    with resolve("models:/tiny/1", zenml=lambda _: facts) as target:
        result = audit_folder(target.folder, others=target.others)
    return [(one.what, one.expected, one.found) for one in result.failures]


def test_a_version_keeps_what_it_says_of_its_making(artifact, capfd, server, tmp_path):
    folder, done = artifact
    before = find("tiny/1")
    again(folder, "--alias", "other", "--metric", "speed=2.0", "--tag", "regrow.candidate=merged")
    answer = json.loads(capfd.readouterr().out)
    after = find("tiny/1")
    assert answer["version"] == "1" and answer["facts"] == done.facts | {"regrow.candidate": "merged"}
    assert after.tags == before.tags | {"regrow.candidate": "merged", "regrow.metric.speed": "2.0"}
    assert after.tags["regrow.commit"] == FIRST and after.licences == LicenceChain.of("MIT", {})
    for said in (FIRST, "p" * 64, "| recovery | 0.5 |", "| speed | 2 |", "MIT"):
        assert said in after.description
    # The statement of the second registration tells all that the version says now.
    server.download_artifacts(done.run_id, "provenance", str(tmp_path))
    assert [one.details.get("regrow.candidate") for one in chain(tmp_path)] == [None, "merged"]
    assert chain(tmp_path)[-1].details["regrow.commit"] == FIRST


def test_it_still_agrees_with_zenml(artifact, capfd):
    folder, done = artifact
    assert audited(done) == []
    again(folder)
    assert audited(done) == []


def test_what_is_given_is_taken(artifact, capfd):
    folder, _ = artifact
    again(folder, "--tag", f"regrow.commit={SECOND}", "--licence", "Apache-2.0")
    after = find("tiny/1")
    assert after.tags["regrow.commit"] == SECOND and after.licences.strictest == "Apache-2.0"


def test_a_tag_that_nobody_stated_is_not_vouched_for(artifact, capfd, server):
    folder, done = artifact
    server.set_model_version_tag("tiny", "1", "regrow.plan", "e" * 64)
    assert audited(done)
    again(folder, "--metric", "speed=2.0")
    assert find("tiny/1").tags["regrow.plan"] == "p" * 64
    assert f"said regrow.plan={'e' * 64}, which was never stated" in capfd.readouterr().err
    assert audited(done) == []


def test_a_version_of_an_earlier_regrow_without_a_statement_gets_one(artifact, capfd, server, tmp_path):
    import shutil

    folder, done = artifact
    shutil.rmtree(server.get_run(done.run_id).info.artifact_uri.removeprefix("file://") + "/provenance")
    again(folder)
    assert json.loads(capfd.readouterr().out)["completed"] == [
        "tiny version 1 had not been stated; it is now"
    ]
    server.download_artifacts(done.run_id, "provenance", str(tmp_path))
    (statement,) = chain(tmp_path)
    assert done.facts.items() <= statement.details.items()
    assert audited(done) == []


def test_the_run_that_wrote_a_version_last_stays_the_one_that_is_looked_at(artifact, capfd, server):
    folder, _ = artifact
    second = server.create_run(server.create_experiment("pipelines")).info.run_id
    model = Checkpoint.open(folder / "checkpoint")
    register(model, SPEC, tags={}, metrics={}, run_id=second, documents={"plan": {"a": 1}})
    again(folder)
    assert find("tiny/1").tags["regrow.run"] == second


def test_a_promoted_version_keeps_its_link_to_zenml_and_others_follow_the_latest_run(artifact, server, capfd):
    folder, _ = artifact
    again(folder, "--tag", "zenml.model_version=4")
    assert find("tiny/1").tags["zenml.model_version"] == "4"
    server.set_registered_model_alias("tiny", "champion", "1")
    again(folder, "--tag", "zenml.model_version=5")
    assert find("tiny/1").tags["zenml.model_version"] == "4"
