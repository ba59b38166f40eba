"""Merge models tuned from one parent."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.commands.shared import MODEL, names, open_model, open_models, read_yaml
from regrow.errors import InputError

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint
    from regrow.merge import MergeSpec

_METHODS = ("slerp", "linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "nuslerp")


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("models", metavar="MODEL", nargs="*", help="two or more models: " + MODEL)
    add("--method", choices=_METHODS, help="default: slerp")
    add("--t", type=float, help="slerp, nuslerp: place between two models (default: 0.5)")
    add(
        "--weights",
        type=_numbers,
        metavar="W,W",
        help="one for each model (default: equal); not slerp, nuslerp",
    )
    add(
        "--density", type=_numbers, metavar="D[,D]", help="ties, dare: share of each task vector that is kept"
    )
    add("--lambda", type=float, dest="lambda_", help="task vectors: factor on their combination (default: 1)")
    add("--base", metavar="MODEL", help="the common parent, for methods with task vectors")
    add("--seed", type=int, help="dare: of the entries that are dropped (default: 0)")
    add(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        help="what is saved (default: as the models)",
    )
    add("--settings", type=Path, metavar="FILE", help="YAML of a MergeSpec, for gradients and patterns")
    add("--mergekit", type=Path, metavar="FILE", help="do what a mergekit YAML says, models included")
    add("--write-mergekit", type=Path, metavar="FILE", help="also write the merge as mergekit's YAML")
    add("--out", type=Path, required=True, help="folder for the merged model")
    group = parser.add_argument_group(
        "search", "CMA-ES over t, weights and density; every candidate is a run at $MLFLOW_TRACKING_URI"
    )
    add = group.add_argument
    add(
        "--search",
        metavar="SUITE",
        help="what candidates are scored on: tasks on validation splits, or texts for perplexity",
    )
    add("--final", metavar="SUITE", help="the evaluation to come: none of its questions may be searched on")
    add("--trials", type=int, help="candidates (default: 40)")
    add("--anchors", type=int, help="numbers of a parameter over the depth of the model (default: 3)")
    add("--search-seed", type=int, help="of the optimiser (default: 1)")
    add("--work", type=Path, help="folder that keeps finished scores (default: by --out)")


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Merge models tuned from one parent."""
    from regrow.files import atomic_file
    from regrow.merge import merge, write_mergekit

    if arguments.out.exists():
        raise InputError(f"{arguments.out}: already exists; name another --out folder or remove it")
    spec, models, base = _from_mergekit(arguments) if arguments.mergekit else _from_options(arguments)
    facts: dict[str, Any] = {}
    if arguments.search:
        spec, facts = _searched(arguments, spec, models, base)
    if arguments.write_mergekit:
        text = write_mergekit(
            [str(model.folder) for model in models], spec, base=str(base.folder) if base else None,
            stored=str(models[0].stored_dtype()).removeprefix("torch."),
        )  # fmt: skip
        with atomic_file(arguments.write_mergekit) as scratch:
            scratch.write_text(text, encoding="utf-8")
    result = merge(models, spec, arguments.out, base=base)
    return {"folder": str(result.checkpoint.folder)} | result.summary() | facts


def _searched(
    arguments: argparse.Namespace, start: "MergeSpec", models: list["Checkpoint"], base: "Checkpoint | None"
) -> tuple["MergeSpec", dict[str, Any]]:
    """Search for the parameters; return the best merge, and what to say of the search."""
    from importlib.util import find_spec

    from regrow.evaluate.suites import read_suite
    from regrow.merge.search import SearchSpec, check_validation, search
    from regrow.merge.tracking import MlflowRecord
    from regrow.parsing import parse

    given = {"trials": arguments.trials, "anchors": arguments.anchors, "seed": arguments.search_seed}
    settings = {name: value for name, value in given.items() if value is not None}
    spec = parse(SearchSpec, {"validation": read_suite(arguments.search), **settings}, "merge --search")
    final = read_suite(arguments.final) if arguments.final else None
    check_validation(spec.validation, final)
    work = arguments.work or arguments.out.parent / f".{arguments.out.name}.search"
    record = None
    if find_spec("mlflow"):
        asked = spec.model_dump(exclude={"validation"}, exclude_none=True)
        facts = {"suite": arguments.search, "method": start.method, **asked}
        record = MlflowRecord(work, arguments.out.name, facts)
    found = search(models, start, spec, work, base=base, final=final, listener=record)
    if record:
        record.finish(found)
    return found.best.spec, {
        "objective": found.objective,
        "start_value": found.start.value,
        "best_value": found.best.value,
        "best": found.best.spec.model_dump(mode="json", exclude_none=True),
        "candidates": len(found.candidates),
        **({"mlflow_run": record.run_id} if record else {}),
    }


_Wanted = tuple["MergeSpec", list["Checkpoint"], "Checkpoint | None"]


def _from_options(arguments: argparse.Namespace) -> _Wanted:
    from regrow.merge import MergeSpec
    from regrow.parsing import parse

    if len(arguments.models) < 2:
        raise InputError("merge: name at least two models")
    settings = read_yaml(arguments.settings)
    for name in ("method", "t", "weights", "lambda_", "seed", "dtype"):
        if (value := getattr(arguments, name)) is not None:
            settings[name] = value
    if arguments.density is not None:
        settings["density"] = arguments.density[0] if len(arguments.density) == 1 else arguments.density
    spec = parse(MergeSpec, settings, "merge")
    if arguments.base is None and spec.needs_base:  # before any model is read
        raise InputError(f"merge: method {spec.method} needs the models' parent; name it with --base MODEL")
    return spec, open_models(arguments.models), _base(arguments.base)


def _from_mergekit(arguments: argparse.Namespace) -> _Wanted:
    from regrow.merge import read_mergekit

    given = [n for n in ("method", "t", "weights", "density", "lambda_", "seed", "dtype", "settings")
             if getattr(arguments, n) is not None]  # fmt: skip
    if arguments.models or arguments.base or given:
        odd = "MODEL" if arguments.models else "--base" if arguments.base else f"--{given[0].rstrip('_')}"
        raise InputError(f"merge: {odd} beside --mergekit, whose file says it; leave one out")
    config = read_mergekit(arguments.mergekit)
    models = open_models(config.models)
    if config.blocks is not None and config.blocks != models[0].blocks:
        raise InputError(
            f"{arguments.mergekit}: slices.layer_range: ends at {config.blocks}, but the models have "
            f"{models[0].blocks} blocks; regrow merges all of them"
        )
    return config.spec, models, _base(config.base)


def _base(name: str | None) -> "Checkpoint | None":
    return open_model(name) if name else None


def _numbers(text: str) -> list[float]:
    return [float(one) for one in names(text)]
