"""With a key, lines are signed, and one that was made without it is found however well it fits."""

from pathlib import Path

import pytest

from regrow.checkpoint import Checkpoint
from regrow.promotion import Record, promote, verify_record
from regrow.promotion.record import sealed
from regrow.registry.statement import state
from tests.lineage.keys import make_key
from tests.promotion.world import EASY, NAME


@pytest.fixture
def signed(world, tmp_path, monkeypatch):
    world.keys = {name: make_key(tmp_path, name) for name in ("ours", "theirs")}
    monkeypatch.setenv("REGROW_SIGNING_KEY", str(world.keys["ours"][0]))
    for seed in (1, 2):
        promote(world.client, NAME, _registered(world, seed), "champion", policy=EASY)
    monkeypatch.setenv("REGROW_VERIFY_KEY", str(world.keys["ours"][1]))
    return world


def test_lines_verify_with_the_key_they_were_signed_with_and_not_with_another(signed, monkeypatch):
    assert verify_record(signed.client, NAME) == []
    monkeypatch.setenv("REGROW_VERIFY_KEY", str(signed.keys["theirs"][1]))
    assert [one.what for one in verify_record(signed.client, NAME)] == ["signature not valid"] * 2
    monkeypatch.delenv("REGROW_VERIFY_KEY")
    assert verify_record(signed.client, NAME) == []


def test_a_last_line_rewritten_with_everything_around_it_is_told(signed):
    """Everything but the key: the line, its end, the tag of the version."""
    from tests.promotion.test_record import key, rewrite

    record = Record.find(signed.client, NAME)
    line = record.lines()[-1]
    forged = sealed(line.begun.model_copy(update={"who": "somebody else"}))
    rewrite(signed, key(2), forged.text())
    rewrite(signed, key(2, "end"), sealed(line.end.model_copy(update={"previous": forged.hash})).text())
    signed.client.set_model_version_tag(NAME, "2", "regrow.promotion", f"2 {forged.hash}")
    (problem,) = verify_record(signed.client, NAME)
    assert problem.said().startswith("promotion record, line 2: not signed")


def test_a_promotion_without_the_key_is_told(signed, monkeypatch):
    monkeypatch.delenv("REGROW_SIGNING_KEY")
    promote(signed.client, NAME, "1", "champion", policy=EASY)
    assert [one.said().partition(" (")[0] for one in verify_record(signed.client, NAME)] == [
        "promotion record, line 3: not signed"
    ]


def _registered(world, seed: int) -> str:
    """Make a version whose registration is stated, with the key of the moment."""
    number = world.simple(seed)
    found = world.client.get_model_version(NAME, number)
    checkpoint = Checkpoint.open(Path(found.source) / "checkpoint")
    state(world.client, checkpoint, NAME, number, found.run_id, {"regrow.digest": checkpoint.digest})
    return number


def test_lines_from_before_there_was_a_key_stop_one_promotion_and_are_vouched_for_by_the_next(
    world, tmp_path, monkeypatch
):
    private, public = make_key(tmp_path, "ours")
    promote(world.client, NAME, world.simple(1), "champion", policy=EASY)
    monkeypatch.setenv("REGROW_SIGNING_KEY", str(private))
    monkeypatch.setenv("REGROW_VERIFY_KEY", str(public))
    two, three = (_registered(world, seed) for seed in (2, 3))
    (gate,) = promote(world.client, NAME, two, "champion", policy=EASY).decision.failed
    assert gate.name == "record" and "line 1: not signed" in gate.observed
    assert promote(world.client, NAME, two, "champion", policy=EASY, reason="signed from now on").forced
    assert verify_record(world.client, NAME) == []
    assert promote(world.client, NAME, three, "champion", policy=EASY).status == "promoted"
    monkeypatch.delenv("REGROW_SIGNING_KEY")
    promote(world.client, NAME, two, "champion", policy=EASY)
    assert [problem.where for problem in verify_record(world.client, NAME)] == ["promotion record, line 4"]


def test_the_promotion_is_stated_and_signed_beside_the_other_statements(signed, tmp_path):
    from regrow.lineage import SigningSettings, chain

    run = signed.client.get_model_version(NAME, "2").run_id
    signed.client.download_artifacts(run, "provenance", str(tmp_path))
    (statement,) = [one for one in chain(tmp_path) if one.stage == "promote"]
    line = Record.find(signed.client, NAME).lines()[-1].begun
    assert statement.subject.name == "promotion"
    assert statement.subject.sha256 == line.hash
    assert [one.sha256 for one in statement.materials] == [line.to.digest]
    file = tmp_path / "provenance" / statement.file_name
    SigningSettings.from_environment().verifier().verify(file, file.with_suffix(".sig"))
