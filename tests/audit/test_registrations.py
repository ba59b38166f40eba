"""Registered, registered again, promoted and rolled back, by this regrow and by an earlier one: no false alarm.

And what a key must find in a version whose statements were taken away.
"""

import json
import shutil
import tempfile
from pathlib import Path

import pytest

from regrow.checkpoint import Checkpoint
from regrow.cli import main
from regrow.lineage import Verifier, attest, describe_checkpoint, describe_value, embed, record
from regrow.lineage.values import scores_digest
from regrow.promotion import promote, rollback
from regrow.registry import LicenceChain, RegistrySpec, register, writing
from regrow.registry.names import is_fact
from regrow.registry.statement import version_digest
from tests.audit.registered import CONFIG, World, audit, evaluation, make, run_with
from tests.lineage.keys import make_key
from tests.lineage.made import merged_model
from tests.lineage.models import HUB
from tests.promotion.world import EASY, FileStages
from tests.tiny import tiny_checkpoint

SPEC = RegistrySpec(name="tiny")


def again(world: World, **changes) -> None:
    """Register the version again with other facts, as `regrow register` does it: in the version's own run."""
    facts = {"tags": {"regrow.candidate": "again"}, "metrics": {"recovery": 0.7, "speed": 2.0}} | changes
    register(world.model, SPEC, **facts)


def statements(world: World) -> list[Path]:
    return sorted(world.artifact("provenance").glob("register-*.json"))


def state_as_before(world: World) -> None:
    """Put what an earlier regrow stated, which were facts alone, in place of the statements of registrations."""
    for file in statements(world):
        file.unlink()
    number = world.registered.version
    tags = world.client.get_model_version("tiny", number).tags
    with tempfile.TemporaryDirectory() as folder:
        about = version_digest("tiny", number, world.model.digest)
        record(
            "register",
            (Path(folder), [describe_value("version", about, model="tiny", number=number)]),
            [],
            parameters={"name": "tiny"},
            details={key: value for key, value in tags.items() if is_fact(key)},
        )
        world.client.log_artifacts(world.registered.run_id, f"{folder}/provenance", "provenance")


def test_a_version_that_was_registered_again_with_other_facts_verifies(world):
    licences = LicenceChain.of("MIT", {"sums": None})
    again(world, licences=licences, documents={"config": {"prune": {"blocks": 2}}})
    # The tag is of the configuration that was registered first.
    assert [one.what for one in audit(world.reference).failures] == ["configuration"]
    again(
        world,
        licences=licences,
        documents={"config": CONFIG},
    )
    result = audit(world.reference)
    assert result.failures == []
    assert len(statements(world)) == 3
    again(
        world,
        licences=licences,
        documents={"config": CONFIG},
    )
    assert len(statements(world)) == 3  # it was stated already
    world.untag("regrow.pruned")  # which the first registration alone has stated
    assert [one.what for one in audit(world.reference).failures] == ["registered as regrow.pruned"]


def test_the_state_before_the_last_registration_is_noted_and_a_mixture_of_the_two_is_not_taken(world):
    first = dict(world.client.get_model_version("tiny", world.registered.version).tags)
    card = world.client.get_model_version("tiny", world.registered.version).description
    again(world)
    world.tag("regrow.metric.recovery", first["regrow.metric.recovery"])
    assert [one.what for one in audit(world.reference).failures] == ["registered as regrow.metric.recovery"]
    world.tag("regrow.candidate", first["regrow.candidate"])
    world.untag("regrow.metric.speed")
    world.client.update_model_version("tiny", world.registered.version, card)
    result = audit(world.reference)
    assert result.failures == []
    assert any("somebody has put the older state back" in one for one in result.not_checked)


@pytest.mark.parametrize("place", ["_log_facts", "_update"])
def test_a_call_that_was_killed_before_it_wrote_what_it_stated_is_noted(world, monkeypatch, place):
    """Killed before the run gets metrics and documents, and after it, before the version gets its tags."""
    with monkeypatch.context() as patch:
        patch.setattr(writing, place, _killed)
        config = {"prune": {"blocks": 2}}
        with pytest.raises(KeyboardInterrupt):
            again(world, documents={"config": config})
    result = audit(world.reference)
    assert result.failures == []
    assert any("that call was not finished" in one for one in result.not_checked)
    again(world, documents={"config": json.loads((world.documents / "config.json").read_text())})


def _killed(*_arguments) -> None:
    raise KeyboardInterrupt


def test_a_version_that_a_third_run_registers_verifies_and_its_own_run_has_all_statements(world, tmp_path):
    for number, items in enumerate([(1, 1, 0, 1), (1, 1, 1, 1)]):
        scores = evaluation(world.model, *items)
        run = run_with(world.client, world.model, scores, tmp_path / f"run-{number}")
        register(
            world.model, SPEC, run_id=run, metrics={"recovery": 1.0, f"only-{number}": 0.5},
            tags={"regrow.candidate": "merged", "regrow.scores": scores_digest(scores)}, documents={"scores": scores},
        )  # fmt: skip
    result = audit(world.reference)
    assert result.failures == []
    # The run that the version names shows the numbers of earlier ones, too.
    assert (
        world.client.get_run(run).data.metrics.items()
        >= {"recovery": 1.0, "only-0": 0.5, "only-1": 0.5}.items()
    )
    assert len(statements(world)) == 3
    # Registered by hand after that, in the version's own run, with the second evaluation.
    again(world, tags={"regrow.scores": scores_digest(scores)}, documents={"scores": scores})
    assert audit(world.reference).failures == []


def test_what_an_earlier_regrow_did_not_state_is_noted_and_its_facts_are_compared(world):
    state_as_before(world)
    result = audit(world.reference)
    assert result.failures == []
    (note,) = [one for one in result.not_checked if "an earlier regrow" in one]
    assert "licences, numbers, model card and documents" in note
    world.untag("regrow.commit")
    assert [one.what for one in audit(world.reference).failures] == ["registered as regrow.commit"]


def test_of_an_earlier_regrow_and_this_one_each_is_held_to_what_it_stated(world):
    state_as_before(world)
    world.tag("regrow.metric.old", "1.0")  # as the earlier one has written and not stated
    again(world)
    result = audit(world.reference)
    assert result.failures == [] and not any("earlier regrow" in one for one in result.not_checked)
    world.tag("regrow.metric.speed", "3.0")
    assert [one.what for one in audit(world.reference).failures] == ["registered as regrow.metric.speed"]


def test_champions_that_were_followed_and_rolled_back_verify_in_both_registries(tracking, database):
    import mlflow

    shutil.copyfile(database, tracking / "mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tracking}/mlflow.db")
    stages, zenml = FileStages(tracking / "stages.json"), {}
    for number in ("1", "2"):
        model = tiny_checkpoint(tracking / number, seed=int(number))
        embed(model.folder, attest("load_model", describe_checkpoint(model), [HUB], parameters={}))
        done = register(model, SPEC, tags={"zenml.model_version": number}, metrics={"recovery": 0.9})
        zenml[number] = done.facts | {"mlflow_version": done.version}

    def found() -> list:
        def ask(version):
            key = version.tags["zenml.model_version"]
            return zenml[key] | {"stage": stages.stage(key)}

        results = [audit(f"models:/tiny/{number}", zenml=ask) for number in zenml]
        assert all("ZenML" in {one.what for one in result.checks} for result in results)
        return [failure for result in results for failure in result.failures]

    client = mlflow.MlflowClient()
    assert found() == []
    for number in zenml:
        assert promote(client, "tiny", number, "champion", policy=EASY, stages=stages).status == "promoted"
        assert found() == []
    assert stages.stage("1") == "archived"
    assert rollback(client, "tiny", policy=EASY, stages=stages).status == "promoted"
    assert found() == []
    stages.move("1", "archived")
    assert [(one.what, one.found) for one in found()] == [("the registries differ in stage", "archived")]


@pytest.mark.parametrize("error", [RuntimeError("Error connecting to URL"), KeyError("no such model")])
def test_a_zenml_that_cannot_be_asked_is_a_note(world, error):
    world.tag("zenml.model_version", "3")

    def ask(_version):
        raise error

    result = audit(world.reference, zenml=ask)
    assert result.failures == []
    (note,) = [one for one in result.not_checked if one.startswith("ZenML")]
    assert note.startswith("ZenML: not asked about MLflow tiny/1 (") and str(error) in note


@pytest.mark.processes
@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"ZENML_STORE_URL": "http://127.0.0.1:9", "ZENML_STORE_API_KEY": "x"}, "http://127.0.0.1:9: Error connecting"),
        ({}, "has no version 3 of the model tiny"),
    ],
)  # fmt: skip
def test_the_command_goes_on_without_zenml(world, tmp_path, variables, reason):
    import os
    import subprocess
    import sys

    world.tag("zenml.model_version", "3")
    code = f"from regrow.cli import main; raise SystemExit(main(['audit', '{world.reference}', '--json']))"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ZENML_STORE")}
    own = {"ZENML_CONFIG_PATH": str(tmp_path / "zenml"), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | own | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert result["failures"] == []
    assert any(reason in one for one in result["not_checked"] if one.startswith("ZenML")), result[
        "not_checked"
    ]


# With a key --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signed(tmp_path_factory, database) -> tuple[Path, Path, Path]:
    """A model whose statements are signed; the private key and the public one."""
    folder = tmp_path_factory.mktemp("signed")
    private, public = make_key(folder, "ours")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REGROW_SIGNING_KEY", str(private))
        return merged_model(folder / "made").folder, private, public


@pytest.fixture
def signed_world(signed, tracking, database, monkeypatch) -> tuple[World, Verifier]:
    """A version whose statements are signed; the process has no key any more."""
    monkeypatch.setenv("REGROW_SIGNING_KEY", str(signed[1]))
    world = make(tracking, signed[0], database)
    monkeypatch.delenv("REGROW_SIGNING_KEY")
    return world, Verifier(key=signed[2])


def _forge_tags(world: World) -> None:
    world.tag("regrow.environment", "0" * 64)
    world.tag("regrow.licence", "MIT")


def _forge_scores(world: World) -> None:
    forged = evaluation(world.model, 1, 1, 1, 1)
    (world.documents / "scores.json").write_text(forged.model_dump_json())
    world.tag("regrow.scores", scores_digest(forged))
    world.client.log_metric(world.registered.run_id, "evaluate.merged.arc_easy.acc_none", 1.0)


@pytest.mark.parametrize(
    ("forge", "missing"), [(_forge_tags, ["registration"]), (_forge_scores, ["registration", "evaluation"])]
)
def test_statements_that_were_taken_away_are_missed_with_a_key(signed_world, forge, missing):
    world, verifier = signed_world
    assert audit(world.reference, verifier).failures == []
    shutil.rmtree(world.artifact("provenance"))
    forge(world)
    found = {one.what for one in audit(world.reference, verifier).failures}
    assert found >= {f"statement of the {one}" for one in missing}
    assert not any(one.what.startswith("statement of the ") for one in audit(world.reference).failures)


def test_a_registration_without_its_statement_fails_with_a_key_until_it_is_made_again(
    signed_world, signed, monkeypatch
):
    world, verifier = signed_world
    for file in world.artifact("provenance").glob("register-*"):
        file.unlink()
    assert [one.what for one in audit(world.reference, verifier).failures] == [
        "statement of the registration"
    ]
    result = audit(world.reference)
    assert result.failures == []
    assert "MLflow tiny/1: its runs hold no statement about the registration" in result.not_checked
    monkeypatch.setenv("REGROW_SIGNING_KEY", str(signed[1]))
    again(world, documents={"config": CONFIG, "scores": world.scores}, tags={})
    assert len(statements(world)) == 1
    assert audit(world.reference, verifier).failures == []


def test_what_the_command_registers_with_scores_verifies_with_a_key(
    signed, tracking, database, monkeypatch, capfd
):
    """No statement about the evaluation is in its run; who registered it vouches for the scores."""
    import mlflow

    monkeypatch.setenv("REGROW_SIGNING_KEY", str(signed[1]))
    shutil.copyfile(database, tracking / "mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tracking}/mlflow.db")
    model = Checkpoint.open(signed[0])
    scores = tracking / "scores.json"
    for items in ([1, 0, 1, 0], [1, 1, 1, 0]):
        scores.write_text(evaluation(model, *items).model_dump_json())
        words = ("--scores", str(scores), "--metric", f"mean={sum(items) / 4}", "--tag", "regrow.plan=here")
        assert main(["register", str(model.folder), "--name", "tiny", *words, "--json"]) == 0
        found = audit("models:/tiny/1", Verifier(key=signed[2]))
        # The plan is made up, which the chain tells.
        assert [one.what for one in found.failures] == ["regrow.plan"]
        assert "MLflow tiny/1: its runs hold no statement about the evaluation" in found.not_checked
