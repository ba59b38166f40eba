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
    stack, lacks = _stack(arguments.stack) if arguments.stack else (None, [])
    with tempfile.TemporaryDirectory(prefix="regrow-plan-") as scratch:
        plan = capacity.make(
            config, whole, device, Path(scratch), assumed=assumed, model=arguments.model, stack=stack,
            price=arguments.gpu_hour,
        )  # fmt: skip
        plan = replace(plan, lacks=lacks)
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


def _stack(name: str) -> tuple[Any, list[str]]:
    """Return a stack file with what its site has made of it, and what the stack lacks.

    Raises:
        InputError: there is no such file, or it cannot be read here.
    """
    try:
        from infra.stacks.schema import load
    except ModuleNotFoundError as error:
        raise InputError(f"--stack needs {error.name}; run regrow from a checkout of the project") from None
    stack = load(name)
    try:
        return _registered(stack)
    except ModuleNotFoundError as error:
        return stack, [f"not checked: {error.name} is not installed; install regrow[pipeline]"]
    except Exception as error:  # a server that is not there must not keep a plan from being made
        return stack, [f"not checked: {(str(error).strip() or type(error).__name__).splitlines()[0]}"]


def _registered(stack: Any) -> tuple[Any, list[str]]:
    """Ask ZenML: the stages as the site's values have them, and what `regrow stack check` misses or cannot know."""
    from infra.stacks.check import check
    from infra.stacks.register import find, kept_values
    from infra.stacks.values import sized

    registered = find(stack.name)
    lacks = [
        f"{one.what}: {one.said}{f' -> {one.remedy}' if one.remedy else ''}"
        for one in check(stack)
        if one.state != "ok"
    ]
    return (sized(stack, kept_values(registered)) if registered else stack), lacks
