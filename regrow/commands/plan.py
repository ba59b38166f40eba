"""Say what a run or study would need, take and move, without starting it."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from regrow.errors import InputError


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("config", type=Path, metavar="CONFIG", help="ZenML run configuration of a run or a study")
    add("--stack", help="stack file (infra/stacks) whose stages say what each step asks for")
    add("--device", default="h100", help="h100, a100, cpu (this machine) or a YAML file (default: h100)")
    add("--gpu-hour", type=float, metavar="PRICE", help="price of a GPU's hour, in any currency")
    add(
        "--model", help="a known shape, a config.json or a model folder, instead of the configuration's model"
    )
    add(
        "--assume",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a size that only the data would say, such as records=5000; may be given again",
    )


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Plan, and print."""
    from dataclasses import replace

    from regrow import capacity
    from regrow.config import read_config

    if arguments.gpu_hour is not None and arguments.gpu_hour < 0:
        raise InputError(f"--gpu-hour {arguments.gpu_hour:g}: a price is not negative")
    device, assumed = capacity.device(arguments.device), capacity.assumptions(arguments.assume)
    config, whole = read_config(arguments.config, _kind(arguments.config))
    stack = _stack(arguments.stack) if arguments.stack else None
    with tempfile.TemporaryDirectory(prefix="regrow-plan-") as scratch:
        plan = capacity.make(
            config, whole, device, Path(scratch), assumed=assumed, model=arguments.model, stack=stack,
            price=arguments.gpu_hour,
        )  # fmt: skip
        if stack is not None:
            plan = replace(plan, lacks=_lacks(stack))
        return plan.to_json() if arguments.json else {"text": capacity.text(plan)}


def _kind(path: Path) -> Any:
    """Return the parameters' model: a study has arms. What is no configuration is refused when it is read."""
    import yaml

    from regrow.config import CompressConfig
    from regrow.study import StudyConfig

    try:
        parameters = yaml.safe_load(path.read_text(encoding="utf-8"))["parameters"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError):
        return CompressConfig
    return StudyConfig if isinstance(parameters, dict) and "arms" in parameters else CompressConfig


def _stack(name: str) -> Any:
    try:
        from infra.stacks.schema import load
    except ModuleNotFoundError as error:
        raise InputError(f"--stack needs {error.name}; run regrow from a checkout of the project") from None
    return load(name)


def _lacks(stack: Any) -> list[str]:
    """Return what `regrow stack check` finds missing, and what could not be known."""
    try:
        from infra.stacks.check import check
    except ModuleNotFoundError as error:
        return [f"not checked: {error.name} is not installed; install regrow[pipeline]"]
    try:
        found = check(stack)
    except Exception as error:  # a server that is not there must not keep a plan from being made
        return [f"not checked: {(str(error).strip() or type(error).__name__).splitlines()[0]}"]
    return [
        f"{one.what}: {one.said}{f' -> {one.remedy}' if one.remedy else ''}"
        for one in found
        if one.state != "ok"
    ]
