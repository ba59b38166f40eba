"""What several commands share: how a model is named, settings read, and a result drawn."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.errors import InputError

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint
    from regrow.importance import LayerImportance

SELF_DATA = "folder that distill wrote, or a file of its records (.jsonl, .parquet, .csv)"
MODEL = "model folder, GGUF file, hub:org/name@revision or mlflow:models:/name@alias"


def open_model(source: str) -> "Checkpoint":
    """Return the checkpoint of a MODEL argument; what is not a folder is resolved once and kept in the cache."""
    from regrow.checkpoint import Checkpoint
    from regrow.files import cache_dir, canonical_digest
    from regrow.parsing import parse
    from regrow.source import ModelSpec, pin, resolve_model

    if Path(source).is_dir():
        return Checkpoint.open(source)
    spec = pin(parse(ModelSpec, {"source": source}, "MODEL"))
    kept = cache_dir() / "models" / canonical_digest(spec.model_dump(mode="json"))[:16]
    return Checkpoint.open(kept) if kept.exists() else resolve_model(spec, kept)


def open_models(sources: Sequence[str]) -> "list[Checkpoint]":
    """Return the checkpoints of MODEL arguments, which are hashed side by side."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:
        return list(pool.map(open_model, sources))


def use_local_registry() -> None:
    """Let MLflow be the one of this folder's local stack, if the user names none and the folder has one."""
    database = Path("runs/store/mlflow.db")
    if database.exists():
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{database.absolute()}")


def read_yaml(path: Path | None) -> dict[str, Any]:
    """Return the settings of a YAML file; none without a file.

    Raises:
        InputError: no such file, not YAML, or no mapping.
    """
    import yaml

    if path is None:
        return {}
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}; write one NAME: VALUE a line")
    return value


def pairs(items: list[str], option: str) -> dict[str, str]:
    """Take NAME=VALUE arguments apart."""
    for item in items:
        if "=" not in item:
            raise InputError(f"{option} {item}: expected NAME=VALUE")
    return dict(item.split("=", 1) for item in items)


def draw_page(draw: str, result: Any, path: Path) -> Path | None:
    """Draw a result by a function of regrow.report, where there is something to draw with (regrow[pipeline])."""
    from importlib.util import find_spec

    if not (find_spec("matplotlib") and find_spec("jinja2")):
        return None
    from regrow import report

    path.write_text(getattr(report, draw)(result), encoding="utf-8")
    return path


def measure(arguments: argparse.Namespace, out: Path | None = None) -> "LayerImportance":
    """Measure importance on the texts of `text_options`; an unfinished pass, and the statement, lie in `out`."""
    from datetime import UTC, datetime

    from regrow import importance as layers
    from regrow.lineage.values import state_importance
    from regrow.parsing import parse
    from regrow.source import TextSpec, origin, read_texts

    texts = {
        "name": "calibration",
        "source": arguments.data,
        "column": arguments.text_column,
        "limit": arguments.samples,
    }
    settings = read_yaml(getattr(arguments, "settings", None))
    for name in ("max_tokens", "all_tokens", "placement", "states", "skip_first"):
        if (value := getattr(arguments, name, None)) is not None:
            settings[name] = value
    spec = parse(layers.ImportanceSpec, settings, "importance")
    started = datetime.now(UTC)
    model, source = open_model(arguments.model), parse(TextSpec, texts, "--data")
    result = layers.compute(model, read_texts(source), spec, out and out / ".partial")
    if out:
        state_importance(result, model, spec, out, calibration=origin(source), started=started)
    return result


def family_option(parser: argparse.ArgumentParser) -> None:
    """Add --family."""
    parser.add_argument(
        "--family",
        choices=("choice", "math", "text", "open"),
        help="kind of final answer, where DATA does not say it",
    )


def names(text: str) -> list[str]:
    """Read a list with commas."""
    return [one.strip() for one in text.split(",") if one.strip()]


def numbers(text: str) -> list[int]:
    """Read whole numbers with commas."""
    return [int(one) for one in names(text)]


def text_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add the options that name calibration texts."""
    parser.add_argument("--data", required=required, help="calibration texts: a file, folder or hub dataset")
    parser.add_argument("--text-column", default="text", help="column with the text (default: text)")
    parser.add_argument("--samples", type=int, default=128, help="calibration texts (default: 128)")


def pipeline_options(parser: argparse.ArgumentParser, example: str) -> None:
    """Add what a whole pipeline is started from."""
    add = parser.add_argument
    add("config", type=Path, metavar="CONFIG", help=f"ZenML run configuration, such as {example}")
    add("--stack", help="registered ZenML stack, such as kubernetes (default: local, of this folder)")


def launcher(command: str) -> Any:
    """Return the module that runs pipelines.

    Raises:
        InputError: what it needs is not installed.
    """
    try:
        from pipelines import launch
    except ModuleNotFoundError as error:
        raise InputError(f"regrow {command} needs {error.name}; install regrow[pipeline]") from None
    return launch
