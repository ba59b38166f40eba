"""What somebody does to the record, by the database or by MLflow's own interface, is found and named."""

import contextlib
import json
import shutil
import sqlite3
from importlib import import_module
from pathlib import Path

import pytest

from regrow.errors import InputError
from regrow.promotion import PromotionConflictError, Record, promote, rollback, verify_record
from regrow.promotion.record import Begun, hash_of, sealed
from tests.promotion.world import EASY, NAME, FileStages, World


@pytest.fixture(scope="module")
def once(tmp_path_factory, template):
    """Four promotions: 1 to champion, 2 to staging, 2 to champion, 3 to champion."""
    folder = tmp_path_factory.mktemp("told")
    with contextlib.chdir(folder):
        world = World(folder, template)
        stages = FileStages(folder / "stages.json")
        for seed in (1, 2, 3):
            world.simple(seed, **{"zenml.model_version": str(10 + seed)})
        for version, target in (("1", "champion"), ("2", "staging"), ("2", "champion"), ("3", "champion")):
            promote(world.client, NAME, version, target, policy=EASY, stages=stages)
    return world


@pytest.fixture
def told(once, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    world = once.copied(tmp_path)
    shutil.copyfile(once.folder / "stages.json", tmp_path / "stages.json")
    world.stages = FileStages(tmp_path / "stages.json")
    return world


def test_what_was_not_touched_holds(told):
    assert verify_record(told.client, NAME, stages=told.stages) == []
    assert [line.state for line in Record.find(told.client, NAME).lines()] == ["done"] * 4


def sql(world, statement, *values):
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for engine in SqlAlchemyStore._engine_map.values():
        engine.dispose()
    with sqlite3.connect(world.folder / "mlflow.db") as database:
        database.execute("PRAGMA foreign_keys = ON")
        assert database.execute(statement, values).rowcount > 0


def key(number, half="begun"):
    return f"promotion.{number:06d}.{half}"


def text_of(world, name):
    return Record.find(world.client, NAME).params()[name]


def rewrite(world, name, text):
    sql(world, "UPDATE params SET value = ? WHERE key = ?", text, name)


def said(world):
    return [one.said() for one in verify_record(world.client, NAME, stages=world.stages)]


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("half", ["begun", "end"])
def test_a_removed_half_line_is_named(told, number, half):
    sql(told, "DELETE FROM params WHERE key = ?", key(number, half))
    assert f"promotion record, line {number} ({half}): removed" in said(told)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_removed_line_is_named(told, number):
    sql(told, "DELETE FROM params WHERE key LIKE ?", f"promotion.{number:06d}.%")
    found = said(told)
    assert f"promotion record, line {number} (begun): removed" in found
    assert f"promotion record, line {number} (end): removed" in found


def test_the_last_line_removed_is_told_by_version_alias_and_stage(told):
    sql(told, "DELETE FROM params WHERE key LIKE ?", "promotion.000004.%")
    found = said(told)
    assert any("line 4 (tag regrow.promotion of version 3): removed" in one for one in found)
    assert (
        f"{NAME}, MLflow alias champion: not where the promotion record has it (expected version 2, found version 3)"
        in found
    )
    assert any(
        "ZenML stage production" in one and "expected version 12, found version 13" in one for one in found
    )


def test_an_end_removed_from_the_last_line_is_told(told):
    sql(told, "DELETE FROM params WHERE key = ?", key(4, "end"))
    assert said(told) == [
        "promotion record, line 4: begun and not ended; the next promotion completes or undoes it"
    ]


def test_a_whole_record_removed_is_told(told):
    experiment = told.client.get_experiment_by_name(f"regrow-promotions/{NAME}")
    told.client.delete_experiment(experiment.experiment_id)
    assert [one for one in said(told) if "is deleted; restore it" in one]
    with pytest.raises(InputError, match="is deleted; restore it"):
        promote(told.client, NAME, "1", "champion", policy=EASY, stages=told.stages)
    told.client.restore_experiment(experiment.experiment_id)
    told.client.rename_experiment(experiment.experiment_id, "elsewhere")
    assert len([one for one in said(told) if "removed or edited: a version was moved by a line" in one]) == 3


def test_a_record_without_a_line_is_told_by_the_versions(told):
    sql(told, "DELETE FROM params WHERE key LIKE 'promotion.%'")
    assert len([one for one in said(told) if "removed or edited" in one]) == 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("who", "somebody else"),
        ("when", "2020-01-01T00:00:00.000Z"),
        ("reason", "it was fine"),
        ("forced", True),
        ("target", "staging"),
        ("decision", "0" * 64),
        ("gates", []),
        ("kind", "rollback"),
        ("from", None),
        ("to", {"version": "1", "digest": "0" * 64}),
    ],
)
def test_an_edited_field_is_told(told, field, value):
    line = json.loads(text_of(told, key(3)))
    assert line[field] != value
    rewrite(told, key(3), json.dumps(line | {field: value}, sort_keys=True, separators=(",", ":")))
    assert any(
        one.startswith("promotion record, line 3 (begun): edited (expected hash") for one in said(told)
    )


def test_an_edited_field_with_its_hash_made_anew_breaks_the_chain(told):
    line = Begun.model_validate_json(text_of(told, key(3)))
    rewrite(told, key(3), sealed(line.model_copy(update={"who": "somebody else"})).text())
    found = said(told)
    assert any(one.startswith("promotion record, line 3 (end): does not follow") for one in found)
    assert not any("(begun): edited" in one for one in found)


def test_the_last_line_forged_anew_with_its_end_disagrees_with_the_version_and_the_decision(told):
    record = Record.find(told.client, NAME)
    line = record.lines()[-1]
    forged = sealed(line.begun.model_copy(update={"who": "somebody else", "decision": "0" * 64}))
    rewrite(told, key(4), forged.text())
    rewrite(told, key(4, "end"), sealed(line.end.model_copy(update={"previous": forged.hash})).text())
    found = said(told)
    assert any("line 4 (tag regrow.promotion of version 3): removed or edited" in one for one in found)
    assert any("line 4: no decision of the gates is behind it" in one for one in found)


def test_an_edited_end_is_told(told):
    line = json.loads(text_of(told, key(2, "end")))
    rewrite(
        told, key(2, "end"), json.dumps(line | {"state": "undone"}, sort_keys=True, separators=(",", ":"))
    )
    assert any(one.startswith("promotion record, line 2 (end): edited") for one in said(told))


@pytest.mark.parametrize("text", ["", "{}", "promoted", '{"number":3}'])
def test_a_line_that_cannot_be_read_is_told(told, text):
    rewrite(told, key(3), text)
    assert any(
        one.startswith("promotion record, line 3 (begun): edited: it cannot be read") for one in said(told)
    )


def test_lines_that_changed_places_are_told(told):
    for half in ("begun", "end"):
        one, two = text_of(told, key(1, half)), text_of(told, key(2, half))
        rewrite(told, key(1, half), two)
        rewrite(told, key(2, half), one)
    found = said(told)
    assert "promotion record, line 1 (begun): reordered (expected line 1, found line 2)" in found
    assert "promotion record, line 2 (begun): reordered (expected line 2, found line 1)" in found


def test_a_line_of_another_model_is_told(told):
    line = Begun.model_validate_json(text_of(told, key(1)))
    rewrite(told, key(1), sealed(line.model_copy(update={"model": "moss"})).text())
    assert any("line 1 (begun): of another model (expected grass, found moss)" in one for one in said(told))


def test_a_forged_line_that_names_no_line_before_is_told(told):
    record = Record.find(told.client, NAME)
    line = record.lines()[0]
    forged = sealed(line.begun.model_copy(update={"number": 5, "previous": "0" * 64}))
    told.client.log_param(record.run_id, key(5), forged.text())
    assert any(one.startswith("promotion record, line 5 (begun): does not follow") for one in said(told))


def test_a_line_forged_into_the_chain_has_no_decision_behind_it(told):
    record = Record.find(told.client, NAME)
    last, first = record.lines()[-1], record.lines()[0]
    begun = first.begun.model_copy(update={"number": 5, "previous": last.end.hash, "decision": "a" * 64})
    begun = record.begin(begun)
    record.end(last.end.model_copy(update={"number": 5, "previous": begun.hash}))
    found = said(told)
    assert any("line 5: no decision of the gates is behind it" in one for one in found)
    assert any(
        "MLflow alias champion" in one and "expected version 1, found version 3" in one for one in found
    )


def test_a_line_forged_with_the_decision_of_another_is_told(told):
    record = Record.find(told.client, NAME)
    last, first = record.lines()[-1], record.lines()[0]
    begun = record.begin(first.begun.model_copy(update={"number": 5, "previous": last.end.hash}))
    record.end(last.end.model_copy(update={"number": 5, "previous": begun.hash}))
    assert any("line 5: the decision of the gates is about another promotion" in one for one in said(told))


def test_an_edited_decision_is_told(told):
    run = told.client.get_model_version(NAME, "2").run_id
    path = f"promotions/{Record.find(told.client, NAME).lines()[2].begun.decision[:16]}.json"
    text = Path(told.client.download_artifacts(run, path)).read_text()
    told.client.log_text(run, json.dumps(json.loads(text) | {"who": "somebody else"}), path)
    try:
        assert [one for one in said(told) if "line 3: the decision of the gates was edited" in one]
    finally:
        told.client.log_text(run, text, path)  # artifacts are shared


def test_a_foreign_parameter_is_told(told):
    told.client.log_param(Record.find(told.client, NAME).run_id, "promotion.7.begun", "hello")
    assert said(told) == ["parameter promotion.7.begun: not a line of the record (expected , found hello)"]


def test_an_alias_pointed_elsewhere_is_told(told):
    told.client.set_registered_model_alias(NAME, "champion", "1")
    assert said(told) == [
        f"{NAME}, MLflow alias champion: not where the promotion record has it (expected version 3, found version 1)"
    ]


def test_an_alias_taken_away_and_one_that_nobody_promoted_are_told(told):
    told.client.delete_registered_model_alias(NAME, "champion")
    told.client.set_registered_model_alias(NAME, "staging", "1")
    assert [one.partition(": not")[0] for one in said(told)] == [
        f"{NAME}, MLflow alias staging",
        f"{NAME}, MLflow alias champion",
    ]


def test_a_stage_moved_in_zenml_is_told(told):
    told.stages.move("11", "production")
    assert said(told) == [
        f"{NAME}, ZenML stage production: not where the promotion record has it (expected version 13, found version 11)"
    ]


def test_a_version_pointed_at_another_checkpoint_is_told(told):
    told.client.set_model_version_tag(NAME, "3", "regrow.digest", "0" * 64)
    assert any(
        "line 4: version 3 is another checkpoint than the one that was promoted" in one for one in said(told)
    )


def test_a_record_that_was_tampered_with_is_a_gate_that_fails(told):
    line = json.loads(text_of(told, key(2)))
    rewrite(told, key(2), json.dumps(line | {"who": "x"}, sort_keys=True, separators=(",", ":")))
    outcome = promote(told.client, NAME, "1", "champion", policy=EASY, stages=told.stages)
    assert outcome.exit_status == 3
    assert [gate.name for gate in outcome.decision.failed] == ["record"]
    forced = promote(
        told.client, NAME, "1", "champion", policy=EASY, stages=told.stages, reason="known, ticket 7"
    )
    assert forced.record == 5 and told.alias("champion") == "1"


def lost_its_last_line(told):
    """As if version 3 had never been promoted: line, alias and stage are put back; the tag of the version is left."""
    sql(told, "DELETE FROM params WHERE key LIKE ?", "promotion.000004.%")
    told.client.set_registered_model_alias(NAME, "champion", "2")
    told.stages.move("12", "production")


def forged_line(told):
    """A line that fits, of a promotion that no gate decided on."""
    record = Record.find(told.client, NAME)
    last, first = record.lines()[-1], record.lines()[0]
    begun = first.begun.model_copy(update={"number": 5, "previous": last.end.hash, "decision": "a" * 64})
    begun = record.begin(begun)
    record.end(sealed(last.end.model_copy(update={"number": 5, "previous": begun.hash})))
    told.client.set_registered_model_alias(NAME, "champion", "1")
    told.stages.move("11", "production")


TRACES = {
    "last line removed": (lost_its_last_line, "line 4 (tag regrow.promotion of version 3): removed"),
    "line forged": (forged_line, "line 5: no decision of the gates is behind it"),
}


@pytest.mark.parametrize("case", TRACES)
def test_what_the_record_lost_stops_promotions_and_no_forced_one_wipes_the_trace(told, case):
    tamper, trace = TRACES[case]
    tamper(told)
    assert any(trace in one for one in said(told))
    how = {"policy": EASY, "stages": told.stages}
    for version in ("3", "2", "3"):
        outcome = promote(told.client, NAME, version, "champion", **how)
        gates = {gate.name: gate for gate in outcome.decision.failed}
        assert outcome.exit_status == 3 and trace in gates["record"].observed
        forced = promote(told.client, NAME, version, "champion", **how, reason="known, ticket 7")
        assert forced.status == "promoted", forced.text()
        assert any(trace in one for one in said(told))


def test_a_line_that_is_there_again_leaves_nothing_behind(told):
    """The database was put back from a copy; the next promotion of the version tidies its tag."""
    begun, end = text_of(told, key(4)), text_of(told, key(4, "end"))
    lost_its_last_line(told)
    run = Record.find(told.client, NAME).run_id
    told.client.log_param(run, key(4), begun)
    told.client.log_param(run, key(4, "end"), end)
    told.client.set_registered_model_alias(NAME, "champion", "3")
    told.stages.move("13", "production")
    assert said(told) == []
    for version in ("1", "3"):
        assert promote(told.client, NAME, version, "champion", policy=EASY, stages=told.stages).record
    assert told.client.get_model_version(NAME, "3").tags["regrow.promotion"].count(" ") == 1


def test_a_rollback_does_not_go_back_to_another_checkpoint(told):
    """The version was pointed at other files, and says so itself; the record knows what it was."""
    source, digest = told.files(9)
    sql(
        told,
        "UPDATE model_versions SET source = ?, storage_location = ? WHERE version = 2",
        *2 * [str(source)],
    )
    before = told.client.get_model_version(NAME, "2").tags["regrow.digest"]
    told.client.set_model_version_tag(NAME, "2", "regrow.digest", digest)
    outcome = rollback(told.client, NAME, policy=EASY, stages=told.stages)
    (gate,) = outcome.decision.failed
    assert (outcome.exit_status, gate.name) == (3, "record")
    assert before in gate.observed and digest in gate.observed


def test_a_promotion_does_not_follow_a_line_that_has_not_ended(told, monkeypatch):
    """Another began between the look for what was left half-done and the reading of the record."""
    record = Record.find(told.client, NAME)
    last = record.lines()[-1]

    def begins(*_args, **_kwargs):
        record.begin(last.begun.model_copy(update={"number": 5, "previous": last.end.hash, "who": "ann"}))
        return []

    monkeypatch.setattr(import_module("regrow.promotion.promote"), "recover", begins)
    with pytest.raises(PromotionConflictError, match=r"another came first: promotion 5 .* by ann"):
        promote(told.client, NAME, "1", "champion", policy=EASY, stages=told.stages)


def test_a_line_is_taken_once_and_taking_it_again_is_no_conflict(told):
    record = Record.find(told.client, NAME)
    last = record.lines()[-1]
    mine = last.begun.model_copy(update={"number": 5, "previous": last.end.hash, "who": "me"})
    begun = record.begin(mine)
    assert begun.hash == hash_of(begun)
    assert record.begin(mine) == begun  # a request whose answer was lost
    with pytest.raises(
        PromotionConflictError, match="another came first: promotion 5 of version 3 to champion by me"
    ):
        record.begin(mine.model_copy(update={"who": "you"}))


def test_mlflow_itself_does_not_let_a_line_be_overwritten(told):
    from mlflow.exceptions import MlflowException

    run = Record.find(told.client, NAME).run_id
    with pytest.raises(MlflowException, match="Changing param values is not allowed"):
        told.client.log_param(run, key(1), "something else")


def test_a_model_that_was_never_promoted_has_nothing_wrong(world):
    world.simple(1)
    assert verify_record(world.client, NAME) == []
