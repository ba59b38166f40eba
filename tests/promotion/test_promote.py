"""A promotion from gates to registries."""

import json
from pathlib import Path

import pytest

from regrow.errors import InputError, RegrowError
from regrow.promotion import (
    PromotionConflictError,
    Record,
    carry_out,
    decide,
    promote,
    repair,
    rollback,
    verify_record,
)
from tests.promotion.world import EASY, NAME, POLICY, FileStages, right


def test_a_version_that_passes_becomes_champion_and_the_record_says_who_when_and_why(world):
    version = world.version(1)
    outcome = promote(
        world.client, NAME, f"@{_alias(world, version)}", "champion", policy=POLICY, who="ann@here"
    )
    assert outcome.status == "promoted", outcome.text()
    assert outcome.exit_status == 0
    assert world.alias("champion") == version
    (line,) = Record.find(world.client, NAME).lines()
    digest = world.client.get_model_version(NAME, version).tags["regrow.digest"]
    told = line.as_dict()
    assert told["state"] == "done" and told["kind"] == "promotion" and told["who"] == "ann@here"
    assert told["from"] is None and told["to"] == {"version": version, "digest": digest}
    assert told["target"] == "champion" and told["forced"] is False and told["reason"] is None
    assert told["when"].endswith("Z") and told["previous"] == "0" * 64
    assert [gate["name"] for gate in told["gates"]] == [
        "record", "digest", "registry", "data gate: sums", "licence", "scores", "scores of base", "not worse than base",
    ]  # fmt: skip
    assert verify_record(world.client, NAME) == []


def _alias(world, version):
    world.client.set_registered_model_alias(NAME, "challenger", version)
    return "challenger"


def test_the_outcome_is_an_artifact_of_the_versions_run_either_way(world):
    good, bad = world.version(1), world.version(2, tasks={"arc": right(20)})
    assert promote(world.client, NAME, good, "champion", policy=POLICY).status == "promoted"
    assert promote(world.client, NAME, bad, "champion", policy=POLICY).status == "refused"
    for version, status in ((good, "promoted"), (bad, "refused")):
        run = world.client.get_model_version(NAME, version).run_id
        outcome = json.loads(Path(world.client.download_artifacts(run, "promotion.json")).read_text())
        assert outcome["status"] == status
        assert outcome["decision"]["version"]["version"] == version


def test_a_refused_version_moves_nothing_and_its_failed_gates_are_a_table(world):
    first, bad = world.version(1), world.version(2, tasks={"arc": right(20)}, licence="cc-by-nc-4.0")
    promote(world.client, NAME, first, "champion", policy=POLICY)
    outcome = promote(world.client, NAME, bad, "champion", policy=POLICY)
    assert outcome.exit_status == 3
    assert [gate.name for gate in outcome.decision.failed] == [
        "licence",
        "not worse than champion (version 1)",
    ]
    assert "| licence " in outcome.text() and "base: CC-BY-NC-4.0" in outcome.text()
    assert "| digest " not in outcome.text()
    assert world.alias("champion") == first
    assert len(Record.find(world.client, NAME).lines()) == 1


def test_a_forced_promotion_needs_a_reason_which_the_record_keeps(world):
    bad = world.version(1, tasks={"arc": right(20)})
    with pytest.raises(InputError, match="--reason: empty"):
        promote(world.client, NAME, bad, "champion", policy=POLICY, reason=" ")
    outcome = promote(world.client, NAME, bad, "champion", policy=POLICY, reason="the demo is today")
    assert outcome.status == "promoted" and outcome.forced
    (line,) = Record.find(world.client, NAME).lines()
    assert line.begun.forced and line.begun.reason == "the demo is today"
    assert [gate.name for gate in line.begun.gates if not gate.passed] == ["not worse than base"]
    assert verify_record(world.client, NAME) == []


def test_a_reason_that_is_not_needed_is_not_recorded_as_force(world):
    version = world.version(1)
    outcome = promote(world.client, NAME, version, "champion", policy=POLICY, reason="just in case")
    assert not outcome.forced and "--force was not needed" in outcome.text()
    assert Record.find(world.client, NAME).lines()[0].begun.reason is None


def test_stage_and_alias_move_together_through_staging_to_champion(world, tmp_path):
    stages = FileStages(tmp_path / "stages.json")
    one = world.simple(1, **{"zenml.model_version": "11"})
    two = world.simple(2, **{"zenml.model_version": "12"})
    promote(world.client, NAME, one, "staging", policy=EASY, stages=stages)
    assert (world.alias("staging"), stages.holder("staging")) == (one, "11")
    promote(world.client, NAME, one, "champion", policy=EASY, stages=stages)
    assert (world.alias("champion"), stages.holder("production")) == (one, "11")
    assert (world.alias("staging"), stages.holder("staging")) == (None, None)
    promote(world.client, NAME, two, "champion", policy=EASY, stages=stages)
    assert (world.alias("champion"), stages.holder("production")) == (two, "12")
    assert stages.stage("11") == "archived"
    assert verify_record(world.client, NAME, stages=stages) == []


def test_a_version_that_zenml_does_not_have_may_follow_one_that_it_has(world, tmp_path):
    stages = FileStages(tmp_path / "stages.json")
    one = world.simple(1, **{"zenml.model_version": "11"})
    other = world.simple(2)  # a candidate of the same run, which was not the best
    promote(world.client, NAME, one, "champion", policy=EASY, stages=stages)
    promote(world.client, NAME, other, "champion", policy=EASY, stages=stages)
    assert (world.alias("champion"), stages.holder("production")) == (other, None)
    assert verify_record(world.client, NAME, stages=stages) == []
    rollback(world.client, NAME, policy=EASY, stages=stages)
    assert (world.alias("champion"), stages.holder("production")) == (one, "11")
    assert verify_record(world.client, NAME, stages=stages) == []


def test_a_rollback_promotes_the_champion_before_and_another_the_one_before_that(world):
    versions = [world.simple(seed) for seed in (1, 2, 3)]
    for version in versions:
        promote(world.client, NAME, version, "champion", policy=EASY)
    assert rollback(world.client, NAME, policy=EASY).status == "promoted"
    assert world.alias("champion") == versions[1]
    assert rollback(world.client, NAME, policy=EASY).status == "promoted"
    assert world.alias("champion") == versions[0]
    with pytest.raises(InputError, match="knows no champion before"):
        rollback(world.client, NAME, policy=EASY)
    lines = Record.find(world.client, NAME).lines()
    assert [line.begun.kind for line in lines] == ["promotion"] * 3 + ["rollback"] * 2
    assert [gate.name for gate in lines[-1].begun.gates] == ["record", "digest", "registry"]
    assert verify_record(world.client, NAME) == []


def test_a_rollback_to_files_that_have_changed_is_refused(world):
    one, two = world.simple(1), world.simple(2)
    for version in (one, two):
        promote(world.client, NAME, version, "champion", policy=EASY)
    (world.folder / "stored/1/checkpoint/config.json").write_text("{}")
    outcome = rollback(world.client, NAME, policy=EASY)
    assert outcome.status == "refused"
    assert [gate.name for gate in outcome.decision.failed] == ["digest"]
    assert world.alias("champion") == two


def test_who_is_champion_already_is_left_alone(world):
    version = world.simple(1)
    promote(world.client, NAME, version, "champion", policy=EASY)
    assert promote(world.client, NAME, version, "champion", policy=EASY).status == "unchanged"
    assert len(Record.find(world.client, NAME).lines()) == 1


@pytest.mark.parametrize("reason", [None, "it is urgent"])
def test_a_champion_that_is_not_what_it_was_is_refused_and_not_called_unchanged(world, reason):
    version = world.simple(1)
    promote(world.client, NAME, version, "champion", policy=EASY)
    (world.folder / "stored/1/checkpoint/config.json").write_text("{}")
    outcome = promote(world.client, NAME, version, "champion", policy=EASY, reason=reason)
    assert (outcome.status, outcome.exit_status) == ("refused", 3)
    assert [gate.name for gate in outcome.decision.failed] == ["digest"]
    assert "is champion already, and is not what it was" in outcome.text() and "| digest " in outcome.text()
    assert len(Record.find(world.client, NAME).lines()) == 1


def test_the_champion_cannot_be_moved_back_to_staging(world):
    version = world.simple(1)
    promote(world.client, NAME, version, "champion", policy=EASY)
    with pytest.raises(InputError, match="is the champion"):
        promote(world.client, NAME, version, "staging", policy=EASY)


def test_an_alias_that_was_there_before_the_record_is_what_the_first_rollback_goes_back_to(world):
    old, new = world.simple(1), world.simple(2)
    world.client.set_registered_model_alias(NAME, "champion", old)
    promote(world.client, NAME, new, "champion", policy=EASY)
    assert Record.find(world.client, NAME).lines()[0].begun.source.version == old
    rollback(world.client, NAME, policy=EASY)
    assert world.alias("champion") == old


def test_an_alias_moved_by_hand_stops_promotion_until_it_is_put_back(world):
    one, two, three = (world.simple(seed) for seed in (1, 2, 3))
    promote(world.client, NAME, one, "champion", policy=EASY)
    world.client.set_registered_model_alias(NAME, "champion", two)
    with pytest.raises(InputError, match=r"expected version 1, found version 2.*--repair"):
        promote(world.client, NAME, three, "champion", policy=EASY)
    outcome = repair(world.client, NAME)
    assert outcome.status == "repaired" and "expected version 1, found version 2" in outcome.text()
    assert world.alias("champion") == one
    assert promote(world.client, NAME, three, "champion", policy=EASY).status == "promoted"


@pytest.mark.parametrize("version", ["7", "@nobody"])
def test_an_unknown_version_is_named(world, version):
    with pytest.raises(InputError, match=f"{NAME} {version}: no such version"):
        promote(world.client, NAME, version, "champion", policy=EASY)


def test_an_unknown_model_is_named(world):
    with pytest.raises(InputError, match="moss: no such registered model"):
        promote(world.client, "moss", "1", "champion", policy=EASY)


def test_a_version_of_zenml_is_not_promoted_without_zenml(world):
    version = world.simple(1, **{"zenml.model_version": "4"})
    with pytest.raises(InputError, match="version 4 of the model in ZenML"):
        promote(world.client, NAME, version, "champion", policy=EASY)


def test_a_registry_in_plain_files_is_refused(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with pytest.raises(InputError, match="needs a database or a server"):
        promote(mlflow.MlflowClient(str(tmp_path)), NAME, "1", "champion")


class Broken(FileStages):
    """A ZenML that goes away."""

    def move(self, version, stage):
        if stage == "production":
            raise ConnectionError("ZenML does not answer")
        super().move(version, stage)


def test_when_the_stage_cannot_be_moved_nothing_is_and_the_record_says_undone(world, tmp_path):
    stages = Broken(tmp_path / "stages.json")
    version = world.simple(1, **{"zenml.model_version": "11"})
    with pytest.raises(RegrowError, match="ZenML does not answer; everything was put back"):
        promote(world.client, NAME, version, "champion", policy=EASY, stages=stages)
    assert world.alias("champion") is None and stages.stage("11") == "none"
    (line,) = Record.find(world.client, NAME).lines()
    assert line.state == "undone" and "ZenML does not answer" in line.end.note
    working = FileStages(tmp_path / "stages.json")
    assert promote(world.client, NAME, version, "champion", policy=EASY, stages=working).record == 2
    assert verify_record(world.client, NAME, stages=working) == []


def test_when_the_alias_cannot_be_moved_the_stage_goes_back(world, tmp_path, monkeypatch):
    stages = FileStages(tmp_path / "stages.json")
    one = world.simple(1, **{"zenml.model_version": "11"})
    two = world.simple(2, **{"zenml.model_version": "12"})
    promote(world.client, NAME, one, "champion", policy=EASY, stages=stages)

    def refuse(name, alias, version):
        if version == two:
            raise PermissionError("no rights")
        type(world.client).set_registered_model_alias(world.client, name, alias, version)

    monkeypatch.setattr(world.client, "set_registered_model_alias", refuse)
    with pytest.raises(RegrowError, match="no rights; everything was put back"):
        promote(world.client, NAME, two, "champion", policy=EASY, stages=stages)
    assert (stages.stage("11"), stages.stage("12")) == ("production", "none")
    assert verify_record(world.client, NAME, stages=stages) == []


def test_a_version_that_was_changed_after_the_gates_were_asked_is_not_promoted(world):
    version = world.simple(1)
    decision = decide(world.client, NAME, version, "champion", policy=EASY)
    world.client.set_model_version_tag(NAME, version, "regrow.digest", "e" * 64)
    with pytest.raises(PromotionConflictError, match="its digest was"):
        carry_out(world.client, decision)
    assert world.alias("champion") is None
