"""Register again and again, killed one write later each time, and tell what each kill has left.

    python -m tests.registry.killed FOLDER SCENARIO

A write is a commit to MLflow's database, or a file or folder that is made, renamed or removed. The kill comes right
before it. Every attempt starts from the same state in the same place, in a process of its own, and prints one
line of JSON.
"""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from regrow.checkpoint import PROVENANCE, Checkpoint
from regrow.errors import InputError
from regrow.lineage import chain
from regrow.registry import RegistrySpec, Version, register, versions
from regrow.registry.begun import BEGUN_TAG
from regrow.registry.journal import PENDING_TAG, search
from regrow.registry.names import is_fact
from regrow.registry.statement import version_digest
from regrow.registry.versions import runs_of
from tests.registry.stored import store, weights_below
from tests.tiny import tiny_checkpoint

SPEC = RegistrySpec(name="tiny")
_FILE_EVENTS = ("os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "shutil.copyfile")


class Scenario:
    """A folder with an MLflow database, models, and one call of `register`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.work = folder / "work"
        self.start = folder / "start"
        self.name = name

    @property
    def calls(self) -> list[tuple[int, dict[str, Any]]]:
        """Calls that lead to the state before, and last the one that is killed: model, arguments."""
        one = {"tags": {"regrow.scores": "first"}, "metrics": {"recovery": 0.5}}
        two = {"tags": {"regrow.scores": "second"}, "metrics": {"recovery": 0.75, "size": 2.0}}
        first = (0, one | {"stored": str(self.work / "store" / "0")})
        return {
            "the first model of all": [first],
            "a stored model": [first, (1, two | {"stored": str(self.work / "store" / "1")})],
            "a model that is stored nowhere": [first, (1, two)],
            "a model that is there": [first, (1, two | {"stored": str(self.work / "store" / "1")}), (0, two)],
            "a model that has the alias": [first, (0, two)],
        }[self.name]

    def prepare(self) -> None:
        """Make the state before the call, and keep it for `reset`."""
        self.work.mkdir(parents=True)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{self.work}/mlflow.db"
        os.chdir(self.work)
        for seed in (0, 1):
            store(
                tiny_checkpoint(self.work / "models" / str(seed), seed=seed), self.work / "store" / str(seed)
            )
        for call in self.calls[:-1]:
            self.register(call)
        versions_or_none()
        shutil.copytree(self.work, self.start)

    def reset(self) -> None:
        shutil.rmtree(self.work)
        shutil.copytree(self.start, self.work, copy_function=os.link)
        (self.work / "mlflow.db").unlink()
        shutil.copyfile(self.start / "mlflow.db", self.work / "mlflow.db")
        os.chdir(self.work)

    def register(self, call: tuple[int, dict[str, Any]]) -> Any:
        model, arguments = call
        return register(Checkpoint.open(self.work / "models" / str(model)), SPEC, **arguments)

    def look(self) -> dict[str, Any]:
        import mlflow

        client = mlflow.MlflowClient()
        found = versions_or_none()
        runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
        return {
            "state": [
                [
                    one.number,
                    one.digest,
                    one.aliases,
                    one.tags.get("regrow.scores"),
                    one.metrics,
                    one.description,
                ]
                for one in found
                if one.finished
            ],
            # Of the versions that count, those of which a statement tells all that they say of their making.
            "stated": [one.number for one in found if one.finished and is_stated(client, one)],
            "half": sum(PENDING_TAG in one.tags for one in search(client, SPEC.name)),
            "begun": sum(BEGUN_TAG in one.data.tags for one in runs),
            "running": sum(one.info.status == "RUNNING" for one in runs),
            "weights": len(weights_below(self.work)),
            "scratch": [str(path) for path in self.work.rglob(".*partial*")],
        }


def is_stated(client: Any, version: Version) -> bool:
    facts = {key: value for key, value in version.tags.items() if is_fact(key)}
    about = version_digest(version.name, str(version.number), version.digest)
    with tempfile.TemporaryDirectory() as scratch:
        for run in runs_of(version):
            if client.list_artifacts(run, PROVENANCE):
                client.download_artifacts(run, PROVENANCE, scratch)
        return any(
            one.subject.sha256 == about and facts.items() <= one.details.items()
            for one in chain(Path(scratch))
        )


def versions_or_none() -> list[Any]:
    try:
        return versions(SPEC.name)
    except InputError:
        return []


def kill_before(number: int, folder: Path) -> None:
    """Make this process kill itself right before its n-th write from now."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    left = number
    written: set[int] = set()

    def write(what: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            (folder / "killed-at").write_text(what)
            os.kill(os.getpid(), signal.SIGKILL)

    @event.listens_for(Engine, "before_cursor_execute")
    def note(connection, _cursor, statement, *_rest) -> None:
        if statement.lstrip().upper().startswith(("INSERT", "UPDATE", "DELETE")):
            written.add(id(connection))

    @event.listens_for(Engine, "commit")
    def commit(connection) -> None:
        if id(connection) in written:
            written.discard(id(connection))
            write("commit")

    inside = str(folder / "work")

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if left <= 0 or not arguments or not str(arguments[0]).startswith(inside):
            return
        if name == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            write(f"open {arguments[0]}")
        elif name in _FILE_EVENTS:
            write(f"{name} {arguments[0]}")

    sys.addaudithook(hook)


def in_a_process(work: Callable[[], Any]) -> Any:
    """Do something in a process that is thrown away; None if it was killed."""
    with tempfile.NamedTemporaryFile("r") as answer:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                result = json.dumps(work())
                Path(answer.name).write_text(result)
                status = 0
            except BaseException as error:
                sys.stderr.write(f"{error!r}\n")
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return None
        assert os.WEXITSTATUS(status) == 0
        return json.load(answer)


def main(folder: Path, name: str) -> None:
    os.environ["REGROW_COMMIT"] = "0" * 40
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    # Every process is forked from this one, which has imported and cached whatever there is. MLflow's reading of its
    # hundred migrations is most of what opening a database costs.
    from mlflow.store.db import utils

    utils._get_latest_schema_revision = cache(utils._get_latest_schema_revision)
    rehearsal = Scenario(folder / "rehearsal", "a model that is stored nowhere")
    rehearsal.prepare()
    rehearsal.register(rehearsal.calls[-1])
    rehearsal.look()

    one = Scenario(folder, name)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{one.work}/mlflow.db"

    def undisturbed() -> dict[str, Any]:
        before = one.look()
        one.register(one.calls[-1])
        return {"before": before, "after": one.look()}

    def again() -> dict[str, Any]:
        left = one.look()
        completed = one.register(one.calls[-1]).completed
        return {"left": left, "again": {"completed": completed, **one.look()}}

    in_a_process(lambda: one.prepare() or {})
    one.reset()
    tell(in_a_process(undisturbed))
    number = 0
    while True:
        number += 1
        one.reset()

        def attempt(number: int = number) -> dict[str, Any]:
            kill_before(number, folder)
            one.register(one.calls[-1])
            return {}

        if in_a_process(attempt) is not None:
            break
        tell({"at": (folder / "killed-at").read_text(), **in_a_process(again)})


def tell(result: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
