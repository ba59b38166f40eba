"""The `regrow` command: each stage alone, or the whole pipeline.

Results go to standard output (`--json`: one JSON object), progress and logs to standard error. Exit status:
0 done, 1 failed, 2 bad usage or input, 3 a gate was not passed.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow import __version__
from regrow.errors import InputError, RegrowError

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint

Handler = Callable[[argparse.Namespace], dict[str, Any]]
_MODEL = "model folder, GGUF file, hub:org/name@revision or mlflow:models:/name@alias"


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO if arguments.verbose else logging.WARNING, format="%(name)s: %(message)s")
    try:
        with _only_results_on_stdout() as stdout:
            result = arguments.handler(arguments)
    except RegrowError as error:
        sys.stderr.write(f"regrow: {error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("regrow: interrupted; the same command continues where it can\n")
        return 130
    text = json.dumps(result, indent=2, ensure_ascii=False) if arguments.json else _plain(result)
    stdout.write(text + "\n")
    stdout.close()
    return int(result.get("exit_status", 0))


@contextmanager
def _only_results_on_stdout() -> Iterator[Any]:
    """Send what libraries and child processes print to standard error; yield the real standard output."""
    sys.stdout.flush()
    real = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        yield real
    finally:
        sys.stdout.flush()
        os.dup2(real.fileno(), 1)


def _plain(result: dict[str, Any]) -> str:
    if "text" in result:
        return str(result["text"])
    return "\n".join(
        f"{key}: {json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value}"
        for key, value in result.items()
        if key != "exit_status"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="regrow", description="Prune a language model and regrow its quality from its own words."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, handler: Handler, description: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=description, description=description)
        one.add_argument("--json", action="store_true", help="print the result as one JSON object")
        one.add_argument("-v", "--verbose", action="store_true", help="log what is being done")
        one.set_defaults(handler=handler)
        return one

    run = command("run", _run, "run the whole pipeline from a configuration file")
    run.add_argument("config", type=Path, metavar="CONFIG", help="ZenML run configuration, such as configs/demo.yaml")
    run.add_argument("--stack", help="registered ZenML stack (default: the local one of this folder)")

    importance = command("importance", _importance, "measure which blocks matter; writes importance.json")
    importance.add_argument("model", metavar="MODEL", help=_MODEL)
    _text_options(importance, required=True)
    importance.add_argument("--max-tokens", type=int, default=256, help="tokens kept of each text (default: 256)")
    importance.add_argument("--out", type=Path, required=True, help="folder for importance.json")

    prune = command("prune", _prune, "remove a run of blocks")
    prune.add_argument("model", metavar="MODEL", help=_MODEL)
    how = prune.add_mutually_exclusive_group(required=True)
    how.add_argument("--blocks", type=int, help="number of blocks to remove; needs --importance or --data")
    how.add_argument("--drop", metavar="START:STOP", help="blocks to remove, 0-based, half-open, such as 13:19")
    how.add_argument("--plan", type=Path, help="plan file that an earlier prune wrote")
    prune.add_argument("--importance", type=Path, help="importance.json of this model")
    _text_options(prune, required=False)
    prune.add_argument("--out", type=Path, required=True, help="folder for the pruned model and plan.json beside it")

    distill = command("distill", _distill, "let the unpruned model rewrite a dataset's answers")
    distill.add_argument("model", metavar="MODEL", help=_MODEL)
    distill.add_argument("--data", required=True, help="dataset: a file, a folder or hub:org/name@revision")
    distill.add_argument("--adapter", default="columns", help="what the rows look like (default: columns)")
    distill.add_argument("--column", action="append", metavar="FIELD=COLUMN", help="for the adapter columns")
    distill.add_argument("--family", choices=("choice", "math", "text", "open"), help="kind of final answer")
    distill.add_argument("--limit", type=int, help="number of records")
    distill.add_argument("--engine", choices=("transformers",), default="transformers", help="what generates")
    distill.add_argument("--template", default="auto", help="template name or file (default: the family's)")
    distill.add_argument("--no-reference", action="store_true", help="fresh answers: hide the reference")
    distill.add_argument("--max-new-tokens", type=int, default=256, help="longest answer (default: 256)")
    distill.add_argument("--attempts", type=int, default=1, help="tries per record (default: 1)")
    distill.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    distill.add_argument("--seed", type=int, default=0, help="seed of sampling and of the records' order")
    distill.add_argument("--out", type=Path, required=True, help="folder for records.parquet and summary.json")

    validate = command("validate", _validate, "hold a rewritten dataset against the gate")
    validate.add_argument("data", type=Path, metavar="DATA", help="folder that distill wrote")
    validate.add_argument("--gate", type=Path, help="YAML file with thresholds (default: the built-in ones)")
    validate.add_argument("--model", help="model whose chat template and tokens are checked")
    validate.add_argument("--page", type=Path, help="write the result as an HTML page")

    tune = command("tune", _tune, "fine-tune a model on a dataset that passed the gate")
    tune.add_argument("model", metavar="MODEL", help=_MODEL)
    tune.add_argument("--data", type=Path, required=True, help="distill's folder, or a file of examples")
    tune.add_argument("--recipe", type=Path, help="YAML file with the recipe (default: LoRA on all linear layers)")
    tune.add_argument("--out", type=Path, required=True, help="folder for checkpoint, adapter, log and summary")

    evaluate = command("evaluate", _evaluate, "score models on tasks and held-out text")
    evaluate.add_argument("models", metavar="MODEL", nargs="+", help="the unpruned model first; " + _MODEL)
    evaluate.add_argument("--suite", type=Path, required=True, help="YAML file: an evaluation section")
    evaluate.add_argument("--cache", type=Path, help="folder that keeps finished results")

    merge = command("merge", _merge, "merge models tuned from one parent")
    merge.add_argument("models", metavar="MODEL", nargs="+", help="two or more model folders")
    merge.add_argument("--method", choices=("slerp",), default="slerp")
    merge.add_argument("--t", type=float, default=0.5, help="place between two models (default: 0.5)")
    merge.add_argument("--out", type=Path, required=True, help="folder for the merged model")

    register = command("register", _register, "register a model in MLflow ($MLFLOW_TRACKING_URI)")
    register.add_argument("model", metavar="MODEL", help=_MODEL)
    register.add_argument("--name", required=True, help="name of the registered model")
    register.add_argument("--alias", default="challenger", help="alias to move (default: challenger)")
    register.add_argument("--tag", action="append", default=[], metavar="KEY=VALUE", help="tag of the version")

    digest = command("digest", _digest, "print the digest that names a model folder's content")
    digest.add_argument("folder", type=Path, metavar="FOLDER")
    return parser


def _text_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument("--data", required=required, help="calibration texts: a file, folder or hub dataset")
    parser.add_argument("--text-column", default="text", help="column with the text (default: text)")
    parser.add_argument("--samples", type=int, default=128, help="calibration texts (default: 128)")


def _open(source: str) -> "Checkpoint":
    """Return the checkpoint of a MODEL argument; what is not a folder is resolved once and kept in the cache."""
    from regrow.checkpoint import Checkpoint
    from regrow.config import parse
    from regrow.files import cache_dir, canonical_digest
    from regrow.source import ModelSpec, pin, resolve_model

    if Path(source).is_dir():
        return Checkpoint.open(source)
    spec = pin(parse(ModelSpec, {"source": source}, "MODEL"))
    kept = cache_dir() / "models" / canonical_digest(spec.model_dump(mode="json"))[:16]
    return Checkpoint.open(kept) if kept.exists() else resolve_model(spec, kept)


def _yaml(path: Path | None) -> Any:
    import yaml

    if path is None:
        return {}
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None


def _pairs(items: list[str], option: str) -> dict[str, str]:
    for item in items:
        if "=" not in item:
            raise InputError(f"{option} {item}: expected NAME=VALUE")
    return dict(item.split("=", 1) for item in items)


def _run(arguments: argparse.Namespace) -> dict[str, Any]:
    try:
        from pipelines.launch import run_compress
    except ModuleNotFoundError as error:
        raise InputError(f"regrow run needs {error.name}; install regrow[pipeline]") from None
    from regrow.report import table

    summary = run_compress(arguments.config, stack=arguments.stack)
    one = summary["registered"]
    text = (
        f"{table(summary)}\n\n"
        f"registered  {one['name']} version {one['version']} as @{one['alias']}\n"
        f"digest      {one['digest']}\n"
        f"report      {Path('runs/latest/report.html').absolute()}\n"
        f"web UIs     make ui   (MLflow at http://127.0.0.1:5000, ZenML at http://127.0.0.1:8237)"
    )
    return summary if arguments.json else {"text": text}


def _importance(arguments: argparse.Namespace) -> dict[str, Any]:
    result = _measure(arguments)
    result.save(arguments.out / "importance.json")
    return {
        "importance": str(arguments.out / "importance.json"),
        "model": result.model_digest,
        "samples": result.samples,
        "tokens": result.tokens,
        "best": {str(size): list(result.best(size)) for size in range(1, result.blocks)},
    }


def _measure(arguments: argparse.Namespace) -> Any:
    from regrow import importance
    from regrow.config import parse
    from regrow.source import TextSpec, read_texts

    texts = {
        "name": "calibration",
        "source": arguments.data,
        "column": arguments.text_column,
        "limit": arguments.samples,
    }
    spec = parse(
        importance.ImportanceSpec, {"max_tokens": getattr(arguments, "max_tokens", 256)}, "--max-tokens"
    )
    return importance.compute(_open(arguments.model), read_texts(parse(TextSpec, texts, "--data")), spec)


def _prune(arguments: argparse.Namespace) -> dict[str, Any]:
    from regrow.importance import LayerImportance
    from regrow.prune import PrunePlan, PruneSpec, apply, make_plan

    base = _open(arguments.model)
    if arguments.plan:
        plan = PrunePlan.read(arguments.plan)
    elif arguments.drop:
        start, _, stop = arguments.drop.partition(":")
        if not (start.isdigit() and stop.isdigit()):
            raise InputError(f"--drop {arguments.drop}: expected START:STOP, such as 13:19")
        plan = PrunePlan(
            source_digest=base.digest, depth=base.blocks, start=int(start), stop=int(stop), criterion="given"
        )
    elif arguments.importance:
        plan = make_plan(LayerImportance.read(arguments.importance), PruneSpec(blocks=max(arguments.blocks, 1)))
    elif arguments.data:
        plan = make_plan(_measure(arguments), PruneSpec(blocks=max(arguments.blocks, 1)))
    else:
        raise InputError("--blocks: say how to choose them, with --importance FILE or --data FILE")
    pruned = apply(base, plan, arguments.out)
    plan_file = arguments.out.with_name(arguments.out.name + ".plan.json")
    plan.save(plan_file)
    return pruned.summary() | {"folder": str(pruned.folder), "plan": str(plan_file), "dropped": [plan.start, plan.stop]}


def _distill(arguments: argparse.Namespace) -> dict[str, Any]:
    from regrow.config import parse
    from regrow.records import read_records
    from regrow.selfdata import SelfDataSpec, distill
    from regrow.source import DatasetSpec

    dataset = {
        "name": "data",
        "source": arguments.data,
        "adapter": arguments.adapter,
        "columns": _pairs(arguments.column, "--column") if arguments.column else None,
        "limit": arguments.limit,
        "seed": arguments.seed,
        "family": arguments.family,
    }
    settings = {
        "template": arguments.template,
        "use_reference": not arguments.no_reference,
        "max_new_tokens": arguments.max_new_tokens,
        "attempts": arguments.attempts,
        "temperature": arguments.temperature,
        "seed": arguments.seed,
        "engine": arguments.engine,
    }
    spec = parse(DatasetSpec, dataset, "--data")
    data = distill(
        _open(arguments.model), read_records(spec), spec.family, parse(SelfDataSpec, settings, "distill"), arguments.out
    )
    return {"folder": str(data.folder)} | data.summary


def _validate(arguments: argparse.Namespace) -> dict[str, Any]:
    from regrow import quality
    from regrow.config import parse
    from regrow.errors import GateFailedError
    from regrow.selfdata import SelfData

    gate = parse(quality.GateSpec, _yaml(arguments.gate), str(arguments.gate))
    tokenizer = _open(arguments.model).chat_tokenizer() if arguments.model else None
    result = quality.validate(SelfData.open(arguments.data), gate, arguments.data.name, tokenizer=tokenizer)
    if arguments.page:
        arguments.page.write_text(quality.page(result), encoding="utf-8")
    status = 0 if result.passed else GateFailedError.exit_status
    return result.model_dump(mode="json") | {"exit_status": status} | (
        {} if arguments.json else {"text": quality.explain(result)}
    )


def _tune(arguments: argparse.Namespace) -> dict[str, Any]:
    from regrow.config import parse
    from regrow.tune import Recipe, tune

    recipe = parse(Recipe, _yaml(arguments.recipe), str(arguments.recipe or "recipe"))
    tuned = tune(_open(arguments.model), arguments.data, recipe, arguments.out)
    return {"folder": str(tuned.folder)} | tuned.summary


def _evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    from regrow.config import parse
    from regrow.evaluate import EvaluateSpec, evaluate
    from regrow.evaluate.scores import recovery_interval

    spec = parse(EvaluateSpec, _yaml(arguments.suite), str(arguments.suite))
    scores = [evaluate(Path(name).name, _open(name), spec, arguments.cache) for name in arguments.models]
    return {
        "models": [
            one.summary() | {"recovery": recovery_interval(one, scores[0]).value if one.scores else None}
            for one in scores
        ]
    }


def _merge(arguments: argparse.Namespace) -> dict[str, Any]:
    from regrow.config import parse
    from regrow.merge import MergeSpec, merge_many

    if len(arguments.models) < 2:
        raise InputError("merge: name at least two models")
    spec = parse(MergeSpec, {"method": arguments.method, "t": arguments.t}, "merge")
    result = merge_many([_open(name) for name in arguments.models], spec, arguments.out)
    return {"folder": str(result.checkpoint.folder)} | result.summary()


def _register(arguments: argparse.Namespace) -> dict[str, Any]:
    from regrow.config import parse
    from regrow.registry import RegistrySpec, register

    spec = parse(RegistrySpec, {"name": arguments.name, "alias": arguments.alias}, "register")
    done = register(_open(arguments.model), spec, tags=_pairs(arguments.tag, "--tag"), metrics={})
    return done.model_dump(mode="json") | {"uri": done.uri}


def _digest(arguments: argparse.Namespace) -> dict[str, Any]:
    from regrow.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(arguments.folder)
    return {"digest": checkpoint.digest, "folder": str(checkpoint.folder), "parameters": checkpoint.parameters}


if __name__ == "__main__":
    sys.exit(main())
