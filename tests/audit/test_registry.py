"""A version in MLflow, audited: clean, and with everything that somebody could change there."""

import json
import shutil
from pathlib import Path

import pytest

from regrow.cli import main
from regrow.files import canonical_digest
from regrow.lineage import Verifier, audit_folder
from regrow.lineage.values import scores_digest
from regrow.promotion import Attestation, NonInferiority, Policy, Rules, promote
from regrow.registry import LicenceChain, RegistrySpec, register
from regrow.source import ModelSpec, resolve_model
from tests.audit.registered import World, audit, evaluation, make, run_with
from tests.lineage.keys import make_key
from tests.lineage.made import merged_model
from tests.tiny import tiny_checkpoint


@pytest.mark.parametrize("named", ["version", "alias", "digest", "folder", "mlflow source"])
def test_a_clean_version_verifies_whichever_way_it_is_named(world, named):
    target = {
        "version": world.reference,
        "alias": "models:/tiny@challenger",
        "digest": world.model.digest,
        "folder": str(world.model.folder),
        "mlflow source": world.registered.source,
    }[named]
    result = audit(target)
    assert result.failures == []
    assert result.verified
    assert [one.stage for one in result.chain if one.role == "result"] == ["merge"]
    passed = {one.what for one in result.checks if one.outcome == "passed"}
    assert passed >= {
        "digest", "digest of the version", "statement of the version", "regrow.base", "regrow.pruned", "regrow.plan",
        "configuration", "evaluation", "statement of the evaluation", "registration", "document config",
        "document scores", "document environment", "metric recovery", "statements kept in MLflow",
    }  # fmt: skip
    assert "promotion record" not in {one.what for one in result.checks}
    assert "promotion record: none, MLflow tiny was never promoted" in result.not_checked


def test_a_model_that_is_taken_from_the_registry_brings_its_chain_along(world, tmp_path, monkeypatch):
    monkeypatch.setenv("REGROW_CACHE", str(tmp_path / "cache"))
    taken = resolve_model(ModelSpec(source=f"mlflow:{world.reference}"), tmp_path / "taken")
    result = audit_folder(taken.folder)
    assert result.failures == []
    assert {"load_model", "prune", "merge"} <= {one.stage for one in result.chain}


def repoint(world: World) -> None:
    """Put another model under the version's feet."""
    other = tiny_checkpoint(world.model.folder.parent / "other", seed=5)
    inside = Path(world.registered.source.removeprefix("file://")) / "checkpoint"
    for file in inside.glob("*.safetensors"):
        file.unlink()
    for file in other.folder.glob("*.safetensors"):
        shutil.copyfile(file, inside / file.name)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def edit_scores(world: World) -> None:
    file = world.documents / "scores.json"
    value = json.loads(file.read_text())
    value["scores"]["arc_easy"]["items"] = [1, 1, 1, 1]
    file.write_text(json.dumps(value))


def all_scores(world: World) -> None:
    edit_scores(world)
    shutil.copyfile(world.documents / "scores.json", world.artifact("evaluate.merged") / "scores.json")


def better_scores(world: World) -> None:
    """Forge the evaluation consistently: the numbers, and the tag that names them."""
    task = world.scores.scores["arc_easy"].model_copy(update={"value": 1.0, "items": (1.0,) * 4})
    forged = world.scores.model_copy(update={"scores": {"arc_easy": task}})
    (world.documents / "scores.json").write_text(forged.model_dump_json())
    world.tag("regrow.scores", scores_digest(forged))
    world.client.log_metric(world.registered.run_id, "evaluate.merged.arc_easy.acc_none", 1.0)


def other_template(world: World) -> None:
    """What MLflow loads beside the checkpoint, which has no part in its digest."""
    place = Path(world.registered.source.removeprefix("file://")) / "components" / "tokenizer"
    edit(place / "chat_template.jinja", "assistant", "evil")


def forged_config(world: World) -> None:
    """Another configuration, and its digest."""
    config = {"prune": {"blocks": 0}}
    (world.documents / "config.json").write_text(json.dumps(config))
    world.tag("regrow.config", canonical_digest(config))


def edited_statement(world: World) -> None:
    (file,) = world.artifact("provenance").glob("evaluate-*.json")
    edit(file, '"arc_easy":0.5', '"arc_easy":0.9')


def other_run(world: World) -> None:
    """The version says that it was evaluated in another run, with better scores."""
    better = evaluation(world.model, 1, 1, 1, 1)
    world.tag("regrow.run", run_with(world.client, world.model, better, world.model.folder.parent / "other"))
    (world.documents / "scores.json").unlink()
    shutil.rmtree(world.artifact("evaluate.merged"))


def no_scores_tag(world: World) -> None:
    world.untag("regrow.scores")
    edit_scores(world)


TAMPERED = {
    "digest tag": (lambda w: w.tag("regrow.digest", "0" * 64), "digest of the version", "tag regrow.digest"),
    "attestation tag": (
        lambda w: w.tag("regrow.attestation", "0" * 64), "statement of the version", "tag regrow.attestation",
    ),
    "base tag": (lambda w: w.tag("regrow.base", "0" * 64), "regrow.base", "tag regrow.base"),
    "pruned tag": (lambda w: w.tag("regrow.pruned", "0" * 64), "regrow.pruned", "tag regrow.pruned"),
    "plan tag": (lambda w: w.tag("regrow.plan", "0" * 64), "regrow.plan", "tag regrow.plan"),
    "config tag": (lambda w: w.tag("regrow.config", "0" * 64), "configuration", "config.json"),
    "config file": (
        lambda w: edit(w.documents / "config.json", '"blocks": 1', '"blocks": 2'), "configuration", "config.json",
    ),
    "config file damaged": (lambda w: (w.documents / "config.json").write_text("{"), "configuration", "config.json"),
    "scores tag": (lambda w: w.tag("regrow.scores", "0" * 64), "evaluation", "scores.json"),
    "an item's score": (edit_scores, "evaluation", "scores.json"),
    "scores in the run's evaluation too": (all_scores, "evaluation", "scores.json"),
    "scores files gone": (
        lambda w: [(one / "scores.json").unlink() for one in (w.documents, w.artifact("evaluate.merged"))],
        "evaluation", "scores.json",
    ),
    "scores file damaged": (lambda w: (w.documents / "scores.json").write_text("{}"), "evaluation", "scores.json"),
    "forged evaluation": (better_scores, "statement of the evaluation", "tag regrow.scores"),
    "shown metric": (
        lambda w: w.client.log_metric(w.registered.run_id, "evaluate.merged.arc_easy.acc_none", 0.9),
        "metric evaluate.merged.arc_easy.acc_none", "metrics of the run",
    ),
    "commit tag": (lambda w: w.tag("regrow.commit", "0" * 40), "registered as regrow.commit", "tag regrow.commit"),
    "environment tag": (
        lambda w: w.tag("regrow.environment", "0" * 64), "registered as regrow.environment", "tag regrow.environment",
    ),
    "licence tag": (lambda w: w.tag("regrow.licence", "MIT"), "registered as regrow.licence", "tag regrow.licence"),
    "candidate tag": (
        lambda w: w.tag("regrow.candidate", "base"), "registered as regrow.candidate", "tag regrow.candidate",
    ),
    "data tag": (
        lambda w: w.tag("regrow.data.sums", "0" * 64), "registered as regrow.data.sums", "tag regrow.data.sums",
    ),
    "config tag and file": (forged_config, "registered as regrow.config", "tag regrow.config"),
    "licences tag": (
        lambda w: w.tag("regrow.licences", LicenceChain.of("MIT", {}).to_tag()),
        "registered as regrow.licences", "tag regrow.licences",
    ),
    "metric tag": (
        lambda w: w.tag("regrow.metric.recovery", "0.99"),
        "registered as regrow.metric.recovery", "tag regrow.metric.recovery",
    ),
    "metric tag added": (
        lambda w: w.tag("regrow.metric.speed", "2.0"), "registered as regrow.metric.speed", "tag regrow.metric.speed",
    ),
    "metric of the run": (
        lambda w: w.client.log_metric(w.registered.run_id, "recovery", 0.99), "metric recovery", "metrics of the run",
    ),
    "scores tag gone and scores edited": (no_scores_tag, "registered as regrow.scores", "tag regrow.scores"),
    "config file gone": (
        lambda w: (w.documents / "config.json").unlink(), "document config", "registered/config.json",
    ),
    "environment file": (
        lambda w: edit(w.documents / "environment.json", '"mlflow": "', '"mlflow": "9'),
        "document environment", "registered/environment.json",
    ),
    "model card": (
        lambda w: w.client.update_model_version("tiny", w.registered.version, "# forged"), "model card", "description",
    ),
    "an alias that promotion gives": (
        lambda w: w.client.set_registered_model_alias("tiny", "staging", w.registered.version),
        "held without a promotion record", "alias staging",
    ),
    "a statement in the run": (edited_statement, "statement changed", "provenance/evaluate-"),
    "another run": (other_run, "evaluation", "scores.json"),
    "files of the version": (repoint, "digest", "the folder"),
    "chat template that MLflow loads": (
        other_template, "file changed", "components/tokenizer/chat_template.jinja",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_what_was_changed_in_the_registry_is_named(world, case):
    tamper, what, where = TAMPERED[case]
    tamper(world)
    result = audit(world.reference)
    assert not result.verified
    assert any(one.what == what and where in one.where for one in result.failures), result.failures


def test_each_tag_that_was_deleted_is_named(world):
    tags = {
        "regrow.base", "regrow.plan", "regrow.commit", "regrow.environment", "regrow.attestation", "regrow.licence",
        "regrow.licences", "regrow.metric.recovery", "regrow.run",
    }  # fmt: skip
    for key in tags:
        world.untag(key)
    assert {one.what for one in audit(world.reference).failures} == {f"registered as {key}" for key in tags}


def test_a_model_that_was_evaluated_again_in_another_run_verifies_and_can_be_promoted(world, tmp_path):
    """As after a second run of the pipeline whose training came from the cache."""
    again = evaluation(world.model, 1, 1, 0, 1)
    run = run_with(world.client, world.model, again, tmp_path / "again")
    world.client.log_text(
        run,
        again.model_copy(update={"name": "base", "digest": "b" * 64}).model_dump_json(),
        "evaluate.base/scores.json",
    )
    done = register(
        world.model, RegistrySpec(name="tiny"), run_id=run, metrics={"recovery": 1.0},
        tags={"regrow.candidate": "merged", "regrow.base": "b" * 64, "regrow.scores": scores_digest(again)},
        documents={"scores": again},
    )  # fmt: skip
    assert done.version == world.registered.version
    result = audit(world.reference)
    # The base that the second registration names is made up, and nothing else is wrong.
    assert [one.what for one in result.failures] == ["regrow.base"]
    rules = Rules(attestation=Attestation(required=False), non_inferiority=NonInferiority(base_margin=0.99))
    policy = Policy(champion=rules.model_copy(update={"data_gate": "ignored", "licences": None}))
    outcome = promote(world.client, "tiny", done.version, "champion", policy=policy)
    gates = {one.name: one for one in outcome.decision.gates}
    assert gates["scores"].passed, outcome.text()
    assert "0.7500 against 0.7500" in gates["not worse than base"].observed


def test_what_is_kept_in_mlflow_must_be_signed_with_the_key(tmp_path, monkeypatch, database):
    """A forged evaluation with everything that belongs to it: file, tag, metric, statements. All but the key."""
    import mlflow

    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    private, public = make_key(tmp_path, "ours")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("REGROW_SIGNING_KEY", str(private))
    try:
        world = make(tmp_path, merged_model(tmp_path / "made").folder, database)
        verifier = Verifier(key=public)
        clean = audit(world.reference, verifier)
        assert (clean.failures, clean.signature) == ([], "valid")
        monkeypatch.delenv("REGROW_SIGNING_KEY")
        better = evaluation(world.model, 1, 1, 1, 1)
        for file in world.artifact("provenance").glob("evaluate-*"):
            file.unlink()
        run = run_with(world.client, world.model, better, tmp_path / "forged")
        for path in world.artifact("provenance").iterdir():
            if path.name.startswith("register-"):
                shutil.copy(path, world.artifact("provenance").parents[2] / run / "artifacts" / "provenance")
        world.tag("regrow.run", run)
        register(
            world.model, RegistrySpec(name="tiny"), run_id=run, tags={"regrow.scores": scores_digest(better)},
            metrics={}, documents={"scores": better, "config": {}},
        )  # fmt: skip
        found = audit(world.reference, verifier)
        assert {(one.what, one.where.rpartition("/")[2].partition("-")[0]) for one in found.failures} >= {
            ("signature", "evaluate"), ("signature", "register"),
        }  # fmt: skip
    finally:
        mlflow.set_tracking_uri(before)


def test_an_alias_that_somebody_moved_by_hand_is_found(world):
    world.client.set_registered_model_alias("tiny", "champion", world.registered.version)
    (failure,) = audit(world.reference).failures
    assert (failure.what, failure.where) == ("held without a promotion record", "MLflow tiny, alias champion")
    assert "regrow promote tiny 1 --to champion" in failure.expected
    world.client.delete_registered_model_alias("tiny", "champion")
    promote(world.client, "tiny", world.registered.version, "champion", reason="for the test")
    clean = audit(world.reference)
    assert clean.failures == [] and "promotion record" in {one.what for one in clean.checks}
    world.client.delete_registered_model_alias("tiny", "champion")
    assert any("champion" in one.where for one in audit(world.reference).failures)


def test_the_command_says_it_with_its_exit_status(world, capfd):
    assert main(["audit", world.reference, "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["verified"] and result["failures"] == []
    assert {"stage", "subject", "materials", "checks"} <= set(result["chain"][0])
    world.tag("regrow.base", "0" * 64)
    assert main(["audit", world.reference]) == 3
    assert "tag regrow.base" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("models:/tiny/99", "no such version"),
        ("models:/nothing/1", "no such registered model"),
        ("models:/tiny@nowhere", "no such alias"),
        ("0" * 64, "no version at"),
        ("ftp://host/x", "unknown kind of target"),
        ("nowhere", "no such folder"),
    ],
)
def test_what_is_not_there_is_said(world, capfd, target, message):
    assert main(["audit", target]) == 2
    assert message in capfd.readouterr().err
