"""Run a pipeline from a configuration file, and leave its summary and report in `runs/latest/`."""

import logging
import shutil
from pathlib import Path
from typing import Any

import yaml
from zenml import Model
from zenml.client import Client
from zenml.config.pipeline_run_configuration import PipelineRunConfiguration
from zenml.models import PipelineRunResponse

from infra.local.stack import activate_local_stack
from regrow.config import parse, read_config
from regrow.errors import InputError, RegrowError
from regrow.files import atomic_file, write_json

log = logging.getLogger(__name__)


def run_compress(path: Path, *, stack: str | None = None) -> dict[str, Any]:
    """Run the compress pipeline and return its summary.

    Steps that an earlier run finished with the same inputs come from ZenML's cache, and long steps go on
    from their shards and checkpoints, so a run that was killed is continued by running it again.

    Args:
        path: a ZenML run configuration with regrow's parameters.
        stack: a registered ZenML stack; the local stack of this folder if not given.

    Raises:
        InputError: the configuration cannot be used, or the stack is unknown.
        GateFailedError: data did not pass the gate.
        RegrowError: the run failed.
    """
    parameters, whole = read_config(path)
    pinned = parameters.pinned()
    settings = {key: value for key, value in whole.items() if key != "parameters"}
    parse(PipelineRunConfiguration, settings, str(path))
    _quiet_user_errors()
    root = Client.find_repository() or Path.cwd()
    activate_local_stack(root)
    if stack:
        _activate(stack)
    # Only now: the steps are resolved against the repository that has just been made sure of.
    from pipelines.compress import compress

    # ZenML takes its own sections from a file; the parameters go in checked and pinned.
    work = root / "runs" / "work"
    with atomic_file(work / "run.yaml") as scratch:
        scratch.write_text(yaml.safe_dump(settings), encoding="utf-8")
    configured = compress.with_options(
        config_path=str(work / "run.yaml"), model=Model(name=pinned.registry.name, tags=["regrow"])
    )
    fields = {name: getattr(pinned, name) for name in type(pinned).model_fields}
    run = configured(**fields)
    if run is None:
        raise RegrowError("ZenML returned no run; see its log above")
    return _collect(Client().get_pipeline_run(run.id), root)


class _OneLine(logging.Filter):
    """Let regrow's own errors be logged as their one line; other errors keep their traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], RegrowError):
            record.msg, record.args = f"{record.getMessage()} {record.exc_info[1]}", ()
            record.exc_info = record.exc_text = None
        return True


def _quiet_user_errors() -> None:
    for name in (None, "zenml"):
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(_OneLine())
    # At every step it warns of each framework that is not installed and so cannot log by itself.
    logging.getLogger("zenml.integrations.mlflow.experiment_trackers").setLevel(logging.ERROR)


def _activate(stack: str) -> None:
    try:
        Client().activate_stack(stack)
    except KeyError:
        names = ", ".join(sorted(one.name for one in Client().list_stacks().items))
        raise InputError(f"--stack {stack}: no such ZenML stack; registered: {names}") from None


def _collect(run: PipelineRunResponse, root: Path) -> dict[str, Any]:
    outputs = run.steps["register"].outputs
    summary: dict[str, Any] = outputs["summary"][0].load()
    latest = root / "runs" / "latest"
    write_json(latest / "summary.json", summary)
    with atomic_file(latest / "report.html") as scratch:
        scratch.write_text(str(outputs["report"][0].load()), encoding="utf-8")
    # Everything finished lies in the artifact store now; shards and training checkpoints are of no more use.
    shutil.rmtree(root / "runs" / "work", ignore_errors=True)
    return summary
