"""List, show and compare the versions of the MLflow registry ($MLFLOW_TRACKING_URI)."""

import argparse
from typing import Any

from regrow.commands.shared import use_local_registry

_VERSION = "NAME/VERSION or NAME@alias"


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

    listing = action("list", "list the versions of a model, or of all")
    listing.add_argument("name", metavar="NAME", nargs="?", help="registered model (default: all)")
    show = action("show", "tell everything that a version says of itself")
    show.add_argument("version", metavar="VERSION", help=_VERSION)
    for name, help_text in (
        ("compare", "compare the scores of two versions item by item"),
        (
            "diff",
            "tell what differs between two versions: plan, data, recipe, scores, environment, code, licence",
        ),
    ):
        two = action(name, help_text)
        two.add_argument("a", metavar="A", help=f"the version that is compared with: {_VERSION}")
        two.add_argument("b", metavar="B", help="the other version")


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Read the registry."""
    use_local_registry()
    result, text = {"list": _list, "show": _show, "compare": _compare, "diff": _diff}[arguments.action](
        arguments
    )
    return result if arguments.json else {"text": text}


def _list(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from regrow.registry import models, tables, versions

    names = [arguments.name] if arguments.name else models()
    found = [version for name in names for version in versions(name)]
    return {"versions": [_json(one) for one in found]}, tables.listing(found) if found else "no versions"


def _show(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from regrow.registry import find, tables

    found = find(arguments.version)
    return _json(found) | {"description": found.description}, tables.account(found)


def _compare(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from regrow.evaluate.table import table
    from regrow.registry import find, paired

    first, second, comparison = paired(find(arguments.a), find(arguments.b))
    return comparison.model_dump(mode="json"), table([first, second], [comparison])


def _diff(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from regrow.registry import diff, find, tables

    found = diff(find(arguments.a), find(arguments.b))
    return found.model_dump(mode="json") | {"same": found.same}, tables.difference(found)


def _json(version: Any) -> dict[str, Any]:
    return version.model_dump(mode="json", exclude={"description"}) | {
        "digest": version.digest,
        "metrics": version.metrics,
        "licence": version.licences.strictest,
        "licences": [one.model_dump() for one in version.licences.links],
    }
