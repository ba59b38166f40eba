"""Run a pipeline from a configuration file, and leave what it found in `runs/`."""

import logging
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from zenml import Model
from zenml.client import Client
from zenml.config.pipeline_run_configuration import PipelineRunConfiguration
from zenml.models import PipelineRunResponse
from zenml.pipelines.pipeline_definition import Pipeline

from infra.local.stack import activate_local_stack, here
from pipelines import remote
from regrow.config import C, CompressConfig, read_config
from regrow.errors import InputError, RegrowError
from regrow.files import atomic_file, write_json
from regrow.parsing import parse
from regrow.study import StudyConfig, StudyResult, tables

log = logging.getLogger(__name__)
# What is called so is the local stack of this folder.
_HERE = (None, "local")


def run_compress(path: Path, *, stack: str | None = None) -> dict[str, Any]:
    """Run the compress pipeline, leave summary.json and report.html in runs/latest/, and return the summary.

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
    launch = compress_on(path, stack=stack)
    run, root = _finish(launch), launch.root
    outputs = run.steps["register"].outputs
    summary: dict[str, Any] = outputs["summary"][0].load()
    write_json(root / "runs" / "latest" / "summary.json", summary)
    _write(root / "runs" / "latest" / "report.html", outputs["report"][0].load())
    return summary


def compress_on(path: Path, *, stack: str | None = None) -> "Launch":
    """Return the compress pipeline with everything set for a stack, ready to be run or compiled.

    Args:
        path: a ZenML run configuration with regrow's parameters.
        stack: a registered ZenML stack, which becomes the active one; the local stack of this folder if not given.

    Raises:
        InputError: the configuration cannot be used, or not on this stack, or the stack is unknown.
    """
    parameters, settings = _read(path, CompressConfig, stack)
    root = use_stack(stack)
    parameters = _reachable(parameters)
    # Only now: the steps are resolved against the repository that has just been made sure of.
    from pipelines.compress import compress

    fields: dict[str, Any] = {name: getattr(parameters, name) for name in type(parameters).model_fields}
    if (pods := remote.tuning_pods([one.tune or parameters.tune for one in parameters.datasets])) > 1:
        fields["tune_pods"] = pods
    model = Model(name=parameters.registry.name, tags=["regrow"])
    return _launch(compress, fields, settings, model, root)


def run_study(path: Path, *, stack: str | None = None) -> StudyResult:
    """Run the study pipeline; study.json, study.md and report.html appear in runs/studies/<file's name>/.

    Args:
        path: a ZenML run configuration with a study's parameters.
        stack: a registered ZenML stack; the local stack of this folder if not given.

    Raises:
        InputError: the configuration cannot be used, or the stack is unknown.
        GateFailedError: data did not pass the gate.
        RegrowError: the run failed.
    """
    parameters, settings = _read(path, StudyConfig, stack)
    root = use_stack(stack)
    parameters = _reachable(parameters)
    from pipelines.study import study

    arms = [parameters.recipe(arm, parameters.seeds[0]) for arm in parameters.arms if arm.tune is not None]
    pods = remote.tuning_pods(arms)
    fields = {"config": parameters} | ({"tune_pods": pods} if pods > 1 else {})
    run = run_to_end(study, fields, settings, None, root)
    outputs = run.steps["tabulate"].outputs
    result: StudyResult = outputs["study"][0].load()
    folder = root / "runs" / "studies" / path.stem
    write_json(folder / "study.json", result.model_dump(mode="json"))
    _write(folder / "study.md", tables(result))
    _write(folder / "report.html", outputs["report"][0].load())
    return result


def _read(path: Path, kind: type[C], stack: str | None) -> tuple[C, dict[str, Any]]:
    """Return the checked parameters, pinned if they are for this machine, and ZenML's own sections of the file."""
    parameters, whole = read_config(path, kind)
    settings = {key: value for key, value in whole.items() if key != "parameters"}
    parse(PipelineRunConfiguration, settings, str(path))
    return parameters.pinned() if stack in _HERE else parameters, settings


def _reachable(parameters: C) -> C:
    """Return the parameters with local files pinned by their content; on pods, refuse those that only lie here."""
    remote.demand_reachable(parameters)
    return parameters.pinned()


def use_stack(name: str | None) -> Path:
    """Activate the stack; return the folder that runs/ lies in.

    Args:
        name: of a registered ZenML stack; `local` or None: the local one of this folder.

    Raises:
        InputError: the stack is unknown, or cannot run anything from here.
    """
    _quiet_user_errors()
    root = here()
    activate_local_stack(root)
    if name not in _HERE:
        _activate(name)
        remote.demand_server(name)
    return root


def run_to_end(
    pipeline: Pipeline, parameters: dict[str, Any], settings: dict[str, Any], model: Model | None, root: Path
) -> PipelineRunResponse:
    """Run a pipeline to its end on the active stack, and clear its working folders.

    Raises:
        GateFailedError: a gate stopped it.
        RegrowError: a step failed, or ZenML started no run.
    """
    return _finish(_launch(pipeline, parameters, settings, model, root))


@dataclass(frozen=True)
class Launch:
    """A pipeline that only has to be called.

    Attributes:
        pipeline: with the settings of the run and of the active stack.
        parameters: to call it with.
        root: the folder that runs/ lies in.
        settings: the file of its settings, which is read when it is called.
    """

    pipeline: Pipeline
    parameters: dict[str, Any]
    root: Path
    settings: Path


def _launch(
    pipeline: Pipeline, parameters: dict[str, Any], settings: dict[str, Any], model: Model | None, root: Path
) -> Launch:
    # ZenML takes its own sections from a file; the parameters go in checked and pinned.
    text = yaml.safe_dump(remote.with_stages(pipeline, parameters, settings))
    own = root / "runs" / "work" / f"{pipeline.name}-{sha256(text.encode()).hexdigest()[:8]}.yaml"
    _write(own, text)
    options = {"model": model} if model else {}
    return Launch(pipeline.with_options(config_path=str(own), **options), parameters, root, own)


def _finish(launch: Launch) -> PipelineRunResponse:
    # ZenML 0.98 remembers that many steps of a run and then fails a step with more inputs than that; a study's last
    # step has one for each model and measure.
    os.environ.setdefault("ZENML_EXECUTION_CONTEXT_STEP_RUN_CACHE_SIZE", "100000")
    with remote.told(launch.pipeline.name):
        run = launch.pipeline(**launch.parameters)
    if run is None:
        raise RegrowError("ZenML returned no run; see its log above")
    finished = Client().get_pipeline_run(run.id)
    remote.demand_success(finished)
    # Everything finished lies in the artifact store now; its shards and training checkpoints are of no more use.
    launch.settings.unlink(missing_ok=True)
    work = launch.settings.parent
    for name in finished.steps:
        shutil.rmtree(work / name, ignore_errors=True)
    with suppress(OSError):  # another run works there
        work.rmdir()
    return finished


def _write(path: Path, text: object) -> None:
    with atomic_file(path) as scratch:
        scratch.write_text(str(text), encoding="utf-8")


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


def _activate(stack: str | None) -> None:
    try:
        Client().activate_stack(stack)
    except KeyError:
        names = ", ".join(sorted(one.name for one in Client().list_stacks().items))
        raise InputError(
            f"--stack {stack}: no such ZenML stack; registered: {names} (regrow stack list; regrow stack up NAME)"
        ) from None
