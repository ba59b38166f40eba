"""Promote a registered version to staging or champion, if the gates allow it."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.commands.shared import read_yaml, use_local_registry
from regrow.errors import InputError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from regrow.promotion import Outcome, Policy, StageMover


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("name", metavar="NAME", help="registered model")
    add("version", metavar="VERSION", nargs="?", help="number of the version, or @alias, such as @challenger")
    add("--to", choices=("staging", "champion"), help="alias in MLflow, and stage in ZenML, that it gets")
    add("--policy", type=Path, metavar="FILE", help="YAML file with the gates (default: the built-in ones)")
    add("--force", action="store_true", help="promote although gates fail; needs --reason")
    add("--reason", metavar="TEXT", help="why; kept in the promotion record")
    add("--rollback", action="store_true", help="promote the champion before the present one")
    add("--repair", action="store_true", help="put aliases and stages back to what the record says")
    add("--record", action="store_true", help="show the promotion record, and what is wrong with it")
    add("--pipeline", action="store_true", help="run as a ZenML pipeline, which keeps decision and outcome")
    add("--stack", help="with --pipeline: registered ZenML stack (default: the local one of this folder)")


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Promote; exit status 3 where the gates refuse, or the record does not hold."""
    use_local_registry()
    _check(arguments)
    if arguments.pipeline:
        outcome = _run_pipeline(arguments)
    else:
        import mlflow

        client = mlflow.MlflowClient()
        stages = _stages(client, arguments.name)
        if arguments.record:
            return _show(arguments, client, stages)
        outcome = _act(arguments, client, stages)
    if arguments.json:
        return outcome.as_dict() | {"exit_status": outcome.exit_status}
    return {"text": outcome.text(), "exit_status": outcome.exit_status}


def _check(arguments: argparse.Namespace) -> None:
    actions = [one for one in ("rollback", "repair", "record") if getattr(arguments, one)]
    if len(actions) > 1:
        raise InputError(f"--{actions[0]} and --{actions[1]}: choose one")
    if actions and arguments.version:
        raise InputError(f"--{actions[0]}: takes no VERSION")
    if not actions and not arguments.version:
        raise InputError("VERSION: missing; name a number or @alias, or say --rollback, --repair or --record")
    if not actions and not arguments.to:
        raise InputError("--to: missing; staging or champion")
    if arguments.force and not (arguments.reason or "").strip():
        raise InputError("--force: needs --reason; the record keeps why gates were passed over")
    if arguments.reason and not arguments.force:
        raise InputError("--reason: only with --force")
    if arguments.pipeline and (arguments.repair or arguments.record):
        raise InputError("--pipeline: only for promotions and rollbacks")
    if arguments.stack and not arguments.pipeline:
        raise InputError("--stack: only with --pipeline")


def _act(arguments: argparse.Namespace, client: "MlflowClient", stages: "StageMover | None") -> "Outcome":
    from regrow.promotion import promote, repair, rollback

    if arguments.repair:
        return repair(client, arguments.name, stages=stages)
    more: dict[str, Any] = {
        "policy": read_policy(arguments.policy),
        "stages": stages,
        "reason": arguments.reason,
    }
    if arguments.rollback:
        return rollback(client, arguments.name, arguments.to or "champion", **more)
    return promote(client, arguments.name, arguments.version, arguments.to, **more)


def _run_pipeline(arguments: argparse.Namespace) -> "Outcome":
    try:
        from pipelines.promote import run_promote
    except ModuleNotFoundError as error:
        raise InputError(f"regrow promote --pipeline needs {error.name}; install regrow[pipeline]") from None
    return run_promote(
        arguments.name,
        arguments.version,
        arguments.to or "champion",
        policy=read_policy(arguments.policy),
        reason=arguments.reason,
        stack=arguments.stack,
    )


def _stages(client: "MlflowClient", name: str) -> "StageMover | None":
    """Return the model's versions in ZenML, if any version says that it has one there and ZenML is installed."""
    from regrow.promotion.database import on_database
    from regrow.registry.journal import search
    from regrow.registry.names import ZENML_TAG

    with on_database(client):
        if not any(ZENML_TAG in one.tags for one in search(client, name)):
            return None
    try:
        from infra.stages import ZenStages
    except ModuleNotFoundError:
        return None  # where it is needed, promotion says so
    return ZenStages(name)


def _show(
    arguments: argparse.Namespace, client: "MlflowClient", stages: "StageMover | None"
) -> dict[str, Any]:
    from regrow.promotion import Record, verify_record
    from regrow.promotion.database import on_database
    from regrow.promotion.outcome import table

    problems = verify_record(client, arguments.name, stages=stages)
    with on_database(client):
        record = Record.find(client, arguments.name)
        lines = record.lines() if record else []
    status = 3 if problems else 0
    if arguments.json:
        return {
            "name": arguments.name,
            "lines": [line.as_dict() for line in lines],
            "problems": [one.model_dump(mode="json") for one in problems],
            "exit_status": status,
        }
    head = ("line", "when", "who", "kind", "from", "to", "target", "state", "forced")
    rows = [
        (
            str(line.number),
            line.begun.when[:19] + "Z",
            line.begun.who,
            line.begun.kind,
            line.begun.source.version if line.begun.source else "",
            f"{line.begun.to.version} ({line.begun.to.digest[:12]})",
            line.begun.target,
            line.state,
            line.begun.reason or "",
        )
        for line in lines
    ]
    said = [table(head, rows)] if rows else [f"{arguments.name}: nothing was ever promoted"]
    said += [one.said() for one in problems] or (["the record holds"] if rows else [])
    return {"text": "\n".join(said), "exit_status": status}


def read_policy(path: Path | None) -> "Policy":
    """Read a policy file; the default policy without one.

    Raises:
        InputError: no such file, not YAML, or a key that is unknown or out of range.
    """
    from regrow.parsing import parse
    from regrow.promotion import Policy

    return parse(Policy, read_yaml(path), str(path)) if path else Policy()
