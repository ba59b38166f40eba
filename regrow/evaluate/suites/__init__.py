"""Suites: what is evaluated, in YAML files. Those beside this page have names; any other file has its path.

A suite names lm-eval's tasks. Where a machine has copies of their questions, a mapping from task to source
says so; the tasks stay as they are.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from regrow.errors import InputError
from regrow.evaluate.spec import EvaluateSpec, TaskSpec

# What a mapping of sources may say of a task: where its questions are, and no more.
_OF_SOURCES = (
    "source",
    "sha256",
    "adapter",
    "split",
    "fewshot_source",
    "fewshot_sha256",
    "held_out",
)


def suites() -> dict[str, Path]:
    """Return the packaged suites by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


def read_suite(
    name: str | Path,
    *,
    sources: Path | None = None,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    **settings: Any,
) -> EvaluateSpec:
    """Return a suite, and what of it is changed.

    Args:
        name: name of a packaged suite, or a YAML file with an evaluation section.
        sources: YAML file that maps tasks of the suite to local copies of their questions.
        tasks: the tasks to keep, in their order; all if not given.
        limit: questions of each task (with a group: of each of its tasks).
        settings: fields of EvaluateSpec that replace the suite's, `batch_size` for example.

    Raises:
        InputError: no such suite, task or field; the message names those there are.
    """
    from regrow.parsing import parse

    path = suites().get(str(name), Path(name))
    if not path.exists():
        raise InputError(f"suite {name}: neither a file nor one of {', '.join(suites())}")
    content = _mapping(path)
    content.update(settings)
    spec = parse(EvaluateSpec, content, str(path))
    chosen = {task.name: task for task in spec.tasks}
    if sources is not None:
        chosen |= _from_sources(chosen, sources)
    if tasks is not None:
        if unknown := sorted(set(tasks) - set(chosen)):
            raise InputError(f"suite {name} has no task {unknown[0]}; it has {', '.join(chosen)}")
        chosen = {task: one for task, one in chosen.items() if task in tasks}
    if limit is not None:
        chosen = {task: one.model_copy(update={"limit": limit}) for task, one in chosen.items()}
    return spec.model_copy(update={"tasks": tuple(chosen.values())})


def _from_sources(tasks: dict[str, TaskSpec], path: Path) -> dict[str, TaskSpec]:
    from regrow.parsing import parse

    changed = {}
    for name, given in _mapping(path).items():
        if name not in tasks:
            raise InputError(f"{path}: {name} is no task of the suite, which has {', '.join(tasks)}")
        if not isinstance(given, dict) or "source" not in given:
            raise InputError(f"{path}: {name} has no source; say where its questions are")
        if unknown := sorted(set(given) - set(_OF_SOURCES)):
            raise InputError(
                f"{path}: {name}.{unknown[0]} cannot be changed here, only {', '.join(_OF_SOURCES)}"
            )
        own = tasks[name].model_dump(exclude_unset=True, exclude=set(_OF_SOURCES))
        changed[name] = parse(TaskSpec, own | given, f"{path}: {name}")
    return changed


def _mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no mapping; write one NAME: VALUE a line")
    return content
