"""Check that a model or data set is what its statements say, and show where it came from."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.commands.shared import use_local_registry
from regrow.errors import InputError

if TYPE_CHECKING:
    from regrow.lineage import Verifier
    from regrow.registry.versions import Version

_FAILED = 3


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add(
        "target",
        metavar="TARGET",
        help="folder or file: URI, models:/NAME/VERSION, models:/NAME@alias, s3://BUCKET/..., or digest",
    )
    add("--out", type=Path, metavar="DIR", help="folder for audit.json and audit.html")
    add("--key", type=Path, metavar="PUB", help="public key that signatures must match (PEM)")
    add(
        "--roots",
        type=Path,
        action="append",
        default=[],
        metavar="PEM",
        help="certificates that signatures must lead to; may be repeated",
    )


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Audit a folder; exit status 3 when something does not verify."""
    use_local_registry()
    from regrow.audit import resolve
    from regrow.lineage import audit_folder
    from regrow.lineage.tree import tree

    verifier = _verifier(arguments)
    with resolve(arguments.target, zenml=_zenml, verifier=verifier) as target:
        whole = target.model or target.folder
        if arguments.out and arguments.out.resolve().is_relative_to(whole.resolve()):
            raise InputError(f"--out {arguments.out}: lies in what is audited; name a folder outside of it")
        result = audit_folder(
            target.folder, verifier=verifier, around=target.around, others=target.others, target=target.name
        )
    plain: dict[str, Any] = result.model_dump(mode="json")
    if arguments.out:
        from regrow.files import write_json
        from regrow.lineage.page import page

        write_json(arguments.out / "audit.json", plain)
        (arguments.out / "audit.html").write_text(page(result), encoding="utf-8")
    status = 0 if result.verified else _FAILED
    return plain | {"exit_status": status} | ({} if arguments.json else {"text": tree(result)})


def _zenml(version: "Version") -> dict[str, Any] | None:
    """Return what ZenML holds of a version that names one there; None where ZenML is not installed.

    Raises:
        InputError: ZenML cannot be asked, or has no such version.
    """
    from regrow.registry.names import ZENML_TAG, first_line

    try:
        from infra.stages import ZenStages, server
    except ModuleNotFoundError:
        return None
    where = "ZenML"
    try:
        where = server()
        return ZenStages(version.name).facts(version.tags[ZENML_TAG])
    except Exception as error:  # no such version, or whatever ZenML's client raises of a server
        raise InputError(f"{where}: {first_line(error)}") from error


def _verifier(arguments: argparse.Namespace) -> "Verifier | None":
    from regrow.lineage import SigningSettings, Verifier

    if arguments.key or arguments.roots:
        return Verifier(key=arguments.key, roots=tuple(arguments.roots))
    return SigningSettings.from_environment().verifier()
