"""Register a ZenML stack from its file, and say what it lacks."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.commands.shared import launcher, read_yaml

if TYPE_CHECKING:
    from infra.stacks.schema import StackFile

_NAME = "stack file in infra/stacks, such as kubernetes"


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)

    def action(name: str, help_text: str) -> argparse.ArgumentParser:
        one: argparse.ArgumentParser = actions.add_parser(
            name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}."
        )
        # After the action as well as before it.
        one.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object"
        )
        one.add_argument(
            "-v", "--verbose", action="store_true", default=argparse.SUPPRESS, help="log what is being done"
        )
        return one

    action("list", "list the stack files, and what is registered")
    up = action("up", "register a stack, or bring it up to date; safe to repeat")
    up.add_argument("name", metavar="NAME", help=_NAME)
    up.add_argument(
        "--values",
        metavar="FILE",
        type=Path,
        action="append",
        help="JSON or YAML with what your site adds, such as `terraform output -json stack`; may be given again "
        "(default: the values of the last time)",
    )
    check = action("check", "say what a stack lacks; exit status 3 if anything")
    check.add_argument("name", metavar="NAME", help=_NAME)


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Do what the action says."""
    launcher("stack")
    return {"list": _list, "up": _up, "check": _check}[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> dict[str, Any]:
    from infra.stacks.register import find
    from infra.stacks.schema import load, names

    root = _root()
    found = []
    for name in names():
        stack = load(name)
        found.append(
            {
                "name": name,
                "registered": find(_registered_name(stack, root)) is not None,
                "description": stack.description,
            }
        )
    if arguments.json:
        return {"stacks": found}
    lines = [
        f"{one['name']:<12} {'registered' if one['registered'] else '-':<11} {one['description']}"
        for one in found
    ]
    return {"text": "\n".join(lines)}


def _up(arguments: argparse.Namespace) -> dict[str, Any]:
    from infra.local.stack import register_local_stack
    from infra.stacks.register import up
    from infra.stacks.schema import load
    from infra.stacks.values import combine
    from regrow.errors import InputError

    root = _root()
    stack = load(arguments.name)
    given = [(str(path), read_yaml(path)) for path in arguments.values or []]
    if not stack.remote and given:
        raise InputError(f"--values: the stack {stack.name} takes none")
    changes = up(stack, combine(given) if given else None) if stack.remote else register_local_stack(root)
    if arguments.json:
        return {"stack": changes[-1].name, "changes": [asdict(one) for one in changes]}
    lines = [f"{one.done:<11} {one.kind} {one.name}" for one in changes]
    return {"text": "\n".join([*lines, f"what it lacks: regrow stack check {stack.name}"])}


def _check(arguments: argparse.Namespace) -> dict[str, Any]:
    from infra.stacks.check import check
    from infra.stacks.schema import load

    root = _root()
    stack = load(arguments.name)
    name = _registered_name(stack, root)
    found = check(stack, name=name, component_name=None if stack.remote else name)
    lacking = [one for one in found if not one.ok]
    status = {"exit_status": 3 if lacking else 0}
    if arguments.json:
        return {"stack": name, "findings": [asdict(one) for one in found], **status}
    end = f"{len(lacking)} missing" if lacking else "nothing is missing"
    return {"text": "\n".join([*(one.line() for one in found), end]), **status}


def _root() -> Path:
    """Return this folder as ZenML's repository, where the flavors of infra/ are found."""
    from infra.local.stack import here, use_root

    root = here()
    use_root(root)
    return root


def _registered_name(stack: "StackFile", root: Path) -> str:
    from infra.local.stack import stack_name

    return stack.name if stack.remote else stack_name(root)
