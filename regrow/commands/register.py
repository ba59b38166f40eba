"""Register a model in MLflow ($MLFLOW_TRACKING_URI)."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.commands.shared import MODEL, open_model, pairs, use_local_registry
from regrow.errors import InputError

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint
    from regrow.evaluate.scores import Scores


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL)
    add("--name", required=True, help="name of the registered model")
    add("--alias", default="challenger", help="alias to move (default: challenger)")
    add("--tag", action="append", default=[], metavar="KEY=VALUE", help="tag of the version")
    add("--metric", action="append", default=[], metavar="NAME=NUMBER", help="number of the version")
    add(
        "--scores", type=Path, metavar="FILE", help="scores.json that evaluate wrote; kept for models compare"
    )
    add(
        "--licence",
        metavar="ID",
        help="licence of the base model, SPDX identifier (default: what MODEL says)",
    )
    add(
        "--data-licence",
        action="append",
        default=[],
        metavar="NAME=ID",
        help="licence of a dataset that the model was trained on; 'unknown' where it is not known",
    )


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Register a model in MLflow."""
    use_local_registry()
    from regrow.lineage.values import scores_digest
    from regrow.parsing import parse
    from regrow.registry import RegistrySpec
    from regrow.registry import register as register_model
    from regrow.registry.names import SCORES_TAG

    spec = parse(RegistrySpec, {"name": arguments.name, "alias": arguments.alias}, "register")
    tags = pairs(arguments.tag, "--tag")
    metrics = _numbers(pairs(arguments.metric, "--metric"))
    model = open_model(arguments.model)
    documents = {}
    if arguments.scores:
        documents["scores"] = scores = _scores(arguments.scores, model)
        tags.setdefault(SCORES_TAG, scores_digest(scores))
    done = register_model(
        model,
        spec,
        tags=tags,
        metrics=metrics,
        stored=_stored(model),
        licences=_licences(arguments, model),
        documents=documents,
    )
    return done.model_dump(mode="json") | {"uri": done.uri}


def _stored(model: "Checkpoint") -> str | None:
    """Return the MLflow model that the folder lies in, where it is a stored artifact of a pipeline."""
    around = model.folder.parent
    return str(around) if model.folder.name == "checkpoint" and (around / "MLmodel").is_file() else None


def _licences(arguments: argparse.Namespace, model: "Checkpoint") -> Any:
    from regrow.registry import LicenceChain, licences_of

    if not (arguments.licence or arguments.data_licence):
        return None
    told = licences_of(model.folder)
    data = {link.name: link.licence for link in told.links if link.kind == "data"}
    base = [link for link in told.links if link.kind == "base"]
    return LicenceChain.of(
        arguments.licence or (base[0].licence if base else None),
        {**data, **pairs(arguments.data_licence, "--data-licence")},
        base_name=base[0].name if base else "base",
    )


def _scores(path: Path, model: "Checkpoint") -> "Scores":
    """Return the model's entry of a file of scores.

    Raises:
        InputError: it has none, or the file is no such file.
    """
    from pydantic import ValidationError

    from regrow.evaluate.scores import Scores
    from regrow.files import read_json

    found = read_json(path)
    entries = found if isinstance(found, list) else [found]
    for entry in entries:
        if isinstance(entry, dict) and entry.get("digest") == model.digest:
            try:
                return Scores.model_validate(entry)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                where = ".".join(map(str, first["loc"]))
                raise InputError(
                    f"{path}: no scores that regrow evaluate wrote ({where}: {first['msg']})"
                ) from None
    raise InputError(f"{path}: no scores of {model.digest[:12]}; evaluate this model, or name its own file")


def _numbers(given: dict[str, str]) -> dict[str, float]:
    numbers = {}
    for name, text in given.items():
        try:
            numbers[name] = float(text)
        except ValueError:
            raise InputError(f"--metric {name}={text}: not a number") from None
    return numbers
