"""lm-eval's own tasks on local questions.

A task of lm-eval is a YAML file: prompt, choices, metrics, version. It runs here as it is. For local
questions a second file of a few lines includes it and redirects the loading alone, by lm-eval's own
`custom_dataset` hook: the chosen rows lie in a folder that `datasets` saved, and nothing asks the hub.
"""

import json
import random
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.errors import InputError
from regrow.evaluate.adapters import Row, adapt
from regrow.evaluate.spec import TaskSpec

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks import TaskManager

_SUBSET = "{subset}"


@dataclass(frozen=True, slots=True)
class LocalSet:
    """The chosen questions of one lm-eval task, and its examples."""

    task: str
    rows: list[Row]
    indices: list[int]
    fewshot: list[Row]


def local_sets(task: TaskSpec, seed: int) -> list[LocalSet]:
    """Read the questions of a task, or of every task of a group, and choose which are evaluated.

    Questions are chosen from the rows of the source, before the task's own `process_docs`; with a group,
    `limit` counts for each of its tasks, as in lm-eval.

    Raises:
        InputError: the source cannot be read, or holds no rows, or lm-eval has no such task.
    """
    if task.source is None:
        return []
    if _SUBSET not in task.source:
        return [_local_set(task, task.name, task.source, task.fewshot_source, seed)]
    sets = []
    for name in leaves(task.name):
        subset = str(definition(name).get("dataset_name") or name)
        fewshot = task.fewshot_source and task.fewshot_source.replace(_SUBSET, subset)
        sets.append(_local_set(task, name, task.source.replace(_SUBSET, subset), fewshot, seed))
    return sets


def _local_set(task: TaskSpec, name: str, source: str, fewshot: str | None, seed: int) -> LocalSet:
    from regrow.source import read_rows

    rows = adapt(read_rows(source, task.sha256), task.adapter, name)
    if not rows:
        raise InputError(f"tasks.{name}.source: {source} holds no rows; name another source")
    if task.held_out:
        if task.held_out >= len(rows):
            raise InputError(
                f"tasks.{name}.held_out: {task.held_out} of {len(rows)} rows leave none to evaluate"
            )
        rows, examples = rows[: -task.held_out], rows[-task.held_out :]
    else:
        examples = adapt(read_rows(fewshot, task.fewshot_sha256), task.adapter, name) if fewshot else []
    indices = choose(len(rows), task.limit, task.choose, seed)
    return LocalSet(name, [rows[i] for i in indices], indices, examples)


def choose(count: int, limit: int | None, how: str, seed: int) -> list[int]:
    """Return the indices of the questions that are evaluated, in ascending order."""
    if limit is None or limit >= count:
        return list(range(count))
    if how == "first":
        return list(range(limit))
    return sorted(random.Random(seed).sample(range(count), limit))  # noqa: S311


def build_local(local: LocalSet, task: TaskSpec, folder: Path) -> "ConfigurableTask":
    """Build lm-eval's task on local questions; `folder` holds them and must outlive the task.

    Raises:
        InputError: lm-eval has no such task, or it takes no local questions.
    """
    from datasets import Dataset, DatasetDict

    yaml_path = find(local.task)
    config = definition(local.task)
    if "class" in config or config.get("custom_dataset"):
        raise InputError(
            f"tasks.{local.task}.source: this task loads its data by code of its own; leave source out"
        )
    split = task.split or ("test" if config.get("test_split") else "validation")
    fewshot_split = config.get("fewshot_split") or config.get("training_split") or "train"
    if fewshot_split == split and local.fewshot:
        raise InputError(
            f"tasks.{local.task}: examples would come from the evaluated {split} split; set num_fewshot to 0"
        )
    data = DatasetDict({split: Dataset.from_list(local.rows)})
    if local.fewshot:
        data[fewshot_split] = Dataset.from_list(local.fewshot)
    folder.mkdir(parents=True)
    data.save_to_disk(folder / "data")
    overrides: dict[str, Any] = {
        "dataset_path": "local",
        "dataset_name": None,
        "dataset_kwargs": {"folder": str(folder / "data")},
        "training_split": (config.get("training_split") or fewshot_split) if local.fewshot else None,
        # Named only where the task names it: without a name lm-eval may draw an example more, to leave out the
        # question itself, and then other examples come up.
        "fewshot_split": (config.get("fewshot_split") or None) if local.fewshot else None,
        "validation_split": split if split == "validation" else None,
        "test_split": split if split == "test" else None,
    }
    if task.num_fewshot is not None:
        overrides["num_fewshot"] = task.num_fewshot
    text = f"include: {json.dumps(str(yaml_path))}\ntask: {json.dumps(local.task)}\n"
    # JSON values are YAML values; the one tag names the function below.
    text += "".join(f"{key}: {json.dumps(value)}\n" for key, value in overrides.items())
    text += f"custom_dataset: !function {saved_dataset.__module__}.{saved_dataset.__name__}\n"
    (folder / "task.yaml").write_text(text, encoding="utf-8")
    return _load(str(folder / "task.yaml"))[local.task]


def saved_dataset(folder: str, **metadata: object) -> Any:
    """Load the questions; lm-eval calls this with the task's `dataset_kwargs` and metadata."""
    from datasets import load_from_disk

    return load_from_disk(folder)


def build_hub(task: TaskSpec) -> dict[str, "ConfigurableTask"]:
    """Load the task, or every task of the group, as lm-eval does, from the hub or its cache.

    Raises:
        InputError: lm-eval has no such task, or the hub is out of reach.
    """
    from huggingface_hub.errors import HfHubHTTPError

    path = find(task.name)
    try:
        built = (
            _load(str(path))
            if "task" in definition(task.name) and _is_leaf(task.name)
            else _load_group(task.name)
        )
    except (ConnectionError, HfHubHTTPError, FileNotFoundError) as error:
        raise InputError(
            f"tasks.{task.name}: its questions are neither in the hub's cache nor within reach "
            f"({str(error).splitlines()[0]}); give the task a source, or run it once where the hub answers"
        ) from None
    for one in built.values():
        if task.split:
            one.set_config("test_split", "test" if task.split == "test" else None)
        if task.num_fewshot is not None:
            one.set_config("num_fewshot", task.num_fewshot)
    return built


def _is_leaf(name: str) -> bool:
    return isinstance(definition(name).get("task"), str)


def _load(path: str) -> dict[str, "ConfigurableTask"]:
    from lm_eval.tasks import TaskManager

    # Without the index of its 14,000 tasks, which takes longer to build than many an evaluation.
    loaded: dict[str, ConfigurableTask] = TaskManager(include_defaults=False).load([path])["tasks"]
    return loaded


def leaves(name: str) -> list[str]:
    """Return the tasks of a group or tag, or the task itself.

    Raises:
        InputError: lm-eval has no such task.
    """
    if name in _tasks_by_name() and _is_leaf(name):
        return [name]
    return _group(name)[1]


def _load_group(name: str) -> dict[str, "ConfigurableTask"]:
    loaded: dict[str, ConfigurableTask] = _group(name)[0].load([name])["tasks"]
    return loaded


@lru_cache(maxsize=16)
def _group(name: str) -> tuple["TaskManager", list[str]]:
    """Return a task manager that knows a group, and the names of the group's tasks.

    Most groups lie in one folder, which is indexed in no time; only for the others everything is.
    """
    from lm_eval.tasks import TaskManager

    path = _tasks_by_name().get(name)
    if path:
        manager = TaskManager(include_defaults=False, include_path=path.parent)
        if names := _members(manager, name):
            return manager, names
    manager = TaskManager()
    if names := _members(manager, name):
        return manager, names
    raise _unknown(name)


def _members(manager: "TaskManager", name: str) -> list[str]:
    """Return the tasks below a name, or nothing if one of them is not in the manager's index."""
    entry = manager.task_index.get(name)
    if entry is None:
        return []
    children = (entry.cfg or {}).get("task")
    if entry.yaml_path is None:
        children = sorted(entry.tags)
    if not isinstance(children, list):
        return [name]
    below = [
        _members(manager, child if isinstance(child, str) else child.get("task") or child["group"])
        for child in children
    ]
    return [leaf for names in below for leaf in names] if all(below) else []


@lru_cache(maxsize=1)
def _tasks_by_name() -> dict[str, Path]:
    """Return the YAML file of every task and group, found by their text: a second instead of twenty."""
    import lm_eval.tasks

    line = re.compile(rb"""^["']?(?:task|group)["']?:[ \t]*["']?([\w.:-]+)["']?[ \t]*\r?$""", re.MULTILINE)
    found: dict[str, Path] = {}
    # In lm-eval's own order: the first file that claims a name has it.
    for path in sorted(Path(lm_eval.tasks.__file__).parent.rglob("*.yaml"), key=Path.as_posix):
        for match in line.findall(path.read_bytes()):
            found.setdefault(match.decode(), path)
    return found


def find(name: str) -> Path:
    """Return the file that defines a task of lm-eval.

    Raises:
        InputError: there is none.
    """
    if path := _tasks_by_name().get(name):
        return path
    raise _unknown(name)


def _unknown(name: str) -> InputError:
    from difflib import get_close_matches

    near = get_close_matches(name, _tasks_by_name(), n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "`lm_eval ls tasks` lists them"
    return InputError(f"tasks.{name}: lm-eval has no such task; {hint}")


@lru_cache(maxsize=128)
def definition(name: str) -> dict[str, Any]:
    """Return a task's own YAML with its includes, functions as text."""
    from lm_eval.tasks._yaml_loader import load_yaml

    config: dict[str, Any] = load_yaml(find(name), resolve_func=False)
    return config
