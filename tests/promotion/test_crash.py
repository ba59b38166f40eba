"""A promoter killed at every write: afterwards the old state or the new one, and the next run says so."""

import os
import signal
import threading

import pytest

from regrow.promotion import PromotionConflictError, Record, promote, repair, rollback, verify_record
from tests.promotion.world import EASY, NAME, FileStages

pytestmark = pytest.mark.processes

# Every write of MLflow's client that a promotion makes.
WRITES = (
    "create_experiment", "create_run", "set_experiment_tag", "rename_experiment", "log_text", "log_param",
    "set_registered_model_alias", "delete_registered_model_alias", "set_model_version_tag",
)  # fmt: skip
ONE, TWO = {"zenml.model_version": "11"}, {"zenml.model_version": "12"}


class Killer:
    """Counts writes, and kills the process before or after one of them."""

    def __init__(self, at: int, moment: str) -> None:
        self.at, self.moment, self.count, self.names = at, moment, 0, []

    def around(self, owner, name):
        whole = getattr(owner, name)

        def counted(*args, **kwargs):
            self.count += 1
            self.names.append(name)
            if (self.count, self.moment) == (self.at, "before"):
                os.kill(os.getpid(), signal.SIGKILL)
            result = whole(*args, **kwargs)
            if (self.count, self.moment) == (self.at, "after"):
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, counted)

    def arm(self, client, stages) -> None:
        for name in WRITES:
            self.around(client, name)
        self.around(stages, "move")


def in_a_child(world, act) -> int:
    """Run in a forked process with connections of its own; return its status as `os.waitpid` gives it."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Registry
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Tracking

    engines = [*Registry._engine_map.values(), *Tracking._engine_map.values()]
    for engine in engines:
        engine.dispose()  # an open SQLite connection must not be carried over a fork
    child = os.fork()
    if child == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


def prepared(world, tmp_path):
    """A model with a champion, a version in staging, and both in ZenML."""
    stages = FileStages(tmp_path / "stages.json")
    one, two = world.simple(1, **ONE), world.simple(2, **TWO)
    return stages, one, two


def state(world, stages):
    return (
        world.alias("champion"), world.alias("staging"), stages.holder("production"), stages.holder("staging")
    )  # fmt: skip


def writes_of(world, tmp_path, act) -> list[str]:
    killer = Killer(0, "never")
    stages = FileStages(tmp_path / "stages.json")
    client = _client(world)
    killer.arm(client, stages)
    act(client, stages)
    return killer.names


def _client(world):
    import mlflow

    return mlflow.MlflowClient(world.uri)


# First: the record does not exist yet. Second: champion and staging change at once.
FIRST = [
    "log_text", "create_experiment", "create_run", "set_experiment_tag", "set_experiment_tag", "rename_experiment",
    "log_param", "move", "set_registered_model_alias", "set_model_version_tag", "log_param", "log_text",
]  # fmt: skip
SECOND = [
    "log_text", "log_param", "move", "delete_registered_model_alias", "set_registered_model_alias",
    "set_model_version_tag", "log_param", "log_text",
]  # fmt: skip
MOMENTS = ("before", "after")


def test_the_writes_are_the_ones_that_are_killed_below(world, tmp_path):
    stages, one, two = prepared(world, tmp_path)
    assert (
        writes_of(world, tmp_path, lambda c, s: promote(c, NAME, one, "champion", policy=EASY, stages=s))
        == FIRST
    )
    promote(world.client, NAME, two, "staging", policy=EASY, stages=stages)
    assert (
        writes_of(world, tmp_path, lambda c, s: promote(c, NAME, two, "champion", policy=EASY, stages=s))
        == SECOND
    )


def _die(world, tmp_path, at, moment, version):
    def act():
        client, own = _client(world), FileStages(tmp_path / "stages.json")
        Killer(at, moment).arm(client, own)
        promote(client, NAME, version, "champion", policy=EASY, stages=own)

    status = in_a_child(world, act)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("at", range(1, len(FIRST) + 1))
def test_the_first_promotion_killed_at_any_write_is_completed_or_undone(world, tmp_path, at, moment):
    stages, one, _ = prepared(world, tmp_path)
    _die(world, tmp_path, at, moment, one)
    _next_run(
        world,
        stages,
        one,
        begun=_at(FIRST, at, moment),
        old=(None, None, None, None),
        new=(one, None, "11", None),
    )


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("at", range(1, len(SECOND) + 1))
def test_a_later_promotion_killed_at_any_write_is_completed_or_undone(world, tmp_path, at, moment):
    stages, one, two = prepared(world, tmp_path)
    promote(world.client, NAME, one, "champion", policy=EASY, stages=stages)
    promote(world.client, NAME, two, "staging", policy=EASY, stages=stages)
    _die(world, tmp_path, at, moment, two)
    old, new = (one, two, "11", "12"), (two, None, "12", None)
    _next_run(world, stages, two, begun=_at(SECOND, at, moment), old=old, new=new)


def _at(writes, at, moment):
    """What a kill there leaves: nothing begun, something to undo, something to complete, or nothing to do."""
    done = writes[: at if moment == "after" else at - 1]
    params = done.count("log_param")
    if params != 1:
        return "nothing" if params == 0 else "ended"
    moved = {"move", "set_registered_model_alias", "delete_registered_model_alias"} & set(done)
    return "completed" if moved else "undone"


def _next_run(world, stages, version, *, begun, old, new):
    record = Record.find(world.client, NAME)
    half_done = [
        one for one in verify_record(world.client, NAME, stages=stages) if "begun and not ended" in one.what
    ]
    if begun in ("completed", "undone"):
        assert half_done
        outcome = repair(world.client, NAME, stages=stages)
        (note,) = outcome.notes
        assert f"of version {version} to champion" in note and f"had stopped halfway; it is {begun}" in note
        assert record.lines()[-1].state == {"completed": "done", "undone": "undone"}[begun]
    assert not half_done or begun in ("completed", "undone")
    assert state(world, stages) == (new if begun in ("completed", "ended") else old)
    assert verify_record(world.client, NAME, stages=stages) == []
    again = promote(world.client, NAME, version, "champion", policy=EASY, stages=stages)
    assert again.status == ("unchanged" if begun in ("completed", "ended") else "promoted")
    assert state(world, stages) == new
    assert verify_record(world.client, NAME, stages=stages) == []


def test_the_next_promotion_completes_what_it_finds_and_then_goes_on(world, tmp_path):
    stages, one, two = prepared(world, tmp_path)
    _die(world, tmp_path, FIRST.index("set_registered_model_alias") + 1, "before", one)
    assert (world.alias("champion"), stages.holder("production")) == (None, "11")
    outcome = promote(world.client, NAME, two, "champion", policy=EASY, stages=stages)
    assert outcome.status == "promoted" and "it is completed" in outcome.text()
    assert [line.begun.to.version for line in Record.find(world.client, NAME).lines()] == [one, two]
    assert rollback(world.client, NAME, policy=EASY, stages=stages).status == "promoted"
    assert state(world, stages) == (one, None, "11", None)


def test_what_cannot_be_completed_is_undone(world, tmp_path):
    stages, one, two = prepared(world, tmp_path)
    promote(world.client, NAME, one, "champion", policy=EASY, stages=stages)
    _die(world, tmp_path, 4, "before", two)  # the stage has moved, the alias has not
    assert stages.holder("production") == "12"
    world.client.delete_model_version(NAME, two)
    outcome = repair(world.client, NAME, stages=stages)
    assert "it is undone, because it cannot be completed" in outcome.text()
    assert state(world, stages) == (one, None, "11", None)


def test_a_promotion_under_way_is_left_alone(world, tmp_path):
    stages, one, two = prepared(world, tmp_path)
    promote(world.client, NAME, one, "champion", policy=EASY, stages=stages)
    reached, go_on = threading.Event(), threading.Event()
    slow = FileStages(tmp_path / "stages.json")
    move = slow.move

    def wait(*args):
        reached.set()
        assert go_on.wait(60)
        move(*args)

    slow.move = wait
    done = []
    thread = threading.Thread(
        target=lambda: done.append(
            promote(_client(world), NAME, two, "champion", policy=EASY, stages=slow, who="ann")
        )
    )
    thread.start()
    assert reached.wait(60)
    three = world.simple(3)
    with pytest.raises(PromotionConflictError, match=rf"of version {two} to champion by ann .* is under way"):
        promote(world.client, NAME, three, "champion", policy=EASY, stages=stages)
    go_on.set()
    thread.join(60)
    assert done[0].status == "promoted" and world.alias("champion") == two


def test_a_promoter_of_another_host_is_given_its_lease_and_then_taken_for_dead(world, tmp_path, monkeypatch):
    stages, one, two = prepared(world, tmp_path)
    _die(world, tmp_path, FIRST.index("set_registered_model_alias") + 1, "before", one)
    monkeypatch.setattr("regrow.processes._host", lambda: "elsewhere")
    with pytest.raises(PromotionConflictError, match=r"taken for dead in \d+ s"):
        promote(world.client, NAME, two, "champion", policy=EASY, stages=stages)
    line = Record.find(world.client, NAME).lines()[0]
    late = line.begun.model_copy(update={"lease": 0.0})
    from regrow.promotion import who

    assert who.alive(line.begun) and who.alive(late) is None


def test_a_promoter_that_was_taken_for_dead_does_not_win_after_all(world, tmp_path, monkeypatch):
    from regrow.errors import RegrowError

    stages, one, two = prepared(world, tmp_path)
    promote(world.client, NAME, one, "champion", policy=EASY, stages=stages)
    held_up = FileStages(tmp_path / "stages.json")
    move = held_up.move

    def overtaken(*args):
        held_up.move = move
        monkeypatch.setattr("regrow.promotion.moving.alive", lambda begun: None)
        repair(_client(world), NAME, stages=stages)
        move(*args)

    held_up.move = overtaken
    with pytest.raises(RegrowError, match="took this process for dead and undid it; everything was put back"):
        promote(world.client, NAME, two, "champion", policy=EASY, stages=held_up)
    assert state(world, stages) == (one, None, "11", None)
    assert verify_record(world.client, NAME, stages=stages) == []
