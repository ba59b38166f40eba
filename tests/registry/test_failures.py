"""MLflow fails at each write of `register`, one after the other; `test_killed.py` does the same with SIGKILL."""

import itertools
import logging

import pytest

from regrow.errors import InputError
from regrow.registry import RegistrySpec, register, versions
from regrow.registry.journal import PENDING_TAG, search
from tests.registry.stored import store

WRITES = (
    "create_registered_model", "create_run", "set_terminated", "set_tag", "delete_tag", "log_metric", "log_text",
    "log_artifacts", "log_artifact", "create_model_version", "set_model_version_tag", "update_model_version",
    "set_registered_model_alias", "delete_model_version_tag",
)  # fmt: skip


class LostServerError(Exception):
    """The connection broke."""


class Failing:
    """MLflow's client, of which the n-th write fails: before anything is written, or only its answer is lost."""

    def __init__(self, monkeypatch, place: str) -> None:
        self.left = 0
        self.place = place
        self.last = ""
        for name in WRITES:
            monkeypatch.setattr(f"mlflow.MlflowClient.{name}", self.wrapped(name))

    def wrapped(self, name: str):
        import mlflow

        real = getattr(mlflow.MlflowClient, name)

        def call(*arguments, **named):
            self.left -= 1
            if self.left:
                return real(*arguments, **named)
            self.last = name
            if self.place == "after":
                real(*arguments, **named)
            raise LostServerError(name)

        return call


def state(name: str) -> list:
    try:
        found = versions(name)
    except InputError:
        return []
    return [
        (one.number, one.digest, one.aliases, one.tags["regrow.scores"], one.metrics, one.description)
        for one in found
        if one.finished
    ]


def each_failure(failing: Failing, call, client, caplog) -> list[str]:
    """Call with a failure at every write; `call(n)` is another piece of work for each n. Return where it failed."""
    failed = []
    for number in itertools.count(1):
        name, work = call(number)
        old = state(name)
        failing.left = number
        try:
            caplog.clear()
            work()
            if failing.left > 0:
                return failed
            # The version stands without its statement, and that is said; the next call makes up for it.
            assert failing.last == "log_artifacts" and "its statement is not kept" in caplog.text
            new = state(name)
            assert new != old
            failed.append(failing.last)
            if failing.place == "before":
                assert [one.endswith("had not been stated; it is now") for one in work().completed] == [True]
            assert work().completed == () and state(name) == new
            continue
        except LostServerError:
            failed.append(failing.last)
        left = state(name)
        half = [one for one in search(client, name) if PENDING_TAG in one.tags]
        failing.left = 0
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="regrow"):
            done = work()
        new = state(name)
        assert new != old and left in (old, new), (number, failing.last)
        if half:
            assert any("completed: alias" in one for one in done.completed), (number, failing.last)
        for sentence in done.completed:
            assert sentence in caplog.text
        assert not any(PENDING_TAG in one.tags for one in search(client, name))
        assert work().completed == ()
    return failed


# With the answer lost takes as long again, and SIGKILL falls there too.
PLACES = ["before", pytest.param("after", marks=pytest.mark.processes)]


@pytest.mark.parametrize("place", PLACES)
def test_a_new_version_is_there_or_not(server, two_models, tmp_path, monkeypatch, place, caplog):
    model = two_models[0]
    folder = str(store(model, tmp_path / "store"))

    def call(number: int):
        spec = RegistrySpec(name=f"tiny-{number}")
        facts = {"tags": {"regrow.scores": "s"}, "metrics": {"recovery": 0.5}, "stored": folder}
        return spec.name, lambda: register(model, spec, **facts)

    failing = Failing(monkeypatch, place)
    failed = each_failure(failing, call, server, caplog)
    assert {"create_registered_model", "create_run", "log_metric", "log_text", "create_model_version"} < set(
        failed
    )
    assert {"set_registered_model_alias", "delete_model_version_tag", "delete_tag"} < set(failed)


@pytest.mark.parametrize("place", PLACES)
def test_a_version_that_is_used_again_has_all_its_new_facts_or_none(
    server, two_models, tmp_path, monkeypatch, place, caplog
):
    spec = RegistrySpec(name="tiny")
    folders = [str(store(model, tmp_path / f"store-{i}")) for i, model in enumerate(two_models)]

    def call(number: int):
        which = number % 2
        facts = {
            "tags": {"regrow.scores": f"scores {number}", "regrow.plan": f"plan {number}"},
            "metrics": {"recovery": number / 100},
            "stored": folders[which],
        }
        return spec.name, lambda: register(two_models[which], spec, **facts)

    for number in (-1, 0):
        call(number)[1]()
    failed = each_failure(Failing(monkeypatch, place), call, server, caplog)
    assert failed.count("set_model_version_tag") >= 4
    assert {"update_model_version", "set_registered_model_alias", "delete_model_version_tag"} < set(failed)


def test_an_alias_that_was_moved_meanwhile_stays_and_that_is_said(server, two_models, monkeypatch):
    spec = RegistrySpec(name="tiny")
    facts = {"tags": {"regrow.scores": "s"}, "metrics": {}}
    register(two_models[0], spec, **facts)

    def broken(*_arguments):
        raise LostServerError

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.set_registered_model_alias", broken)
        with pytest.raises(LostServerError):
            register(two_models[1], spec, **facts)
    assert [one.finished for one in versions("tiny")] == [False, True]
    server.create_model_version("tiny", two_models[0].folder.as_uri())
    server.set_registered_model_alias("tiny", "challenger", "3")
    done = register(two_models[0], RegistrySpec(name="tiny", alias="other"), **facts)
    assert "alias challenger was moved to version 3 since, and stays there" in done.completed[0]
    found = {one.number: one for one in versions("tiny")}
    assert found[2].finished and found[2].aliases == ()
    assert found[3].aliases == ("challenger",)
