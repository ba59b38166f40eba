"""What each command of `regrow` does: arguments in, a call into the stage, a result for the terminal out."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.errors import GateFailedError, InputError

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint


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


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the whole pipeline."""
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


def importance(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure which blocks matter."""
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
    from regrow import importance as layers
    from regrow.config import parse
    from regrow.source import TextSpec, read_texts

    texts = {
        "name": "calibration",
        "source": arguments.data,
        "column": arguments.text_column,
        "limit": arguments.samples,
    }
    spec = parse(layers.ImportanceSpec, {"max_tokens": getattr(arguments, "max_tokens", 256)}, "--max-tokens")
    return layers.compute(_open(arguments.model), read_texts(parse(TextSpec, texts, "--data")), spec)


def prune(arguments: argparse.Namespace) -> dict[str, Any]:
    """Remove a run of blocks."""
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
        plan = make_plan(
            LayerImportance.read(arguments.importance), PruneSpec(blocks=max(arguments.blocks, 1))
        )
    elif arguments.data:
        plan = make_plan(_measure(arguments), PruneSpec(blocks=max(arguments.blocks, 1)))
    else:
        raise InputError("--blocks: say how to choose them, with --importance FILE or --data FILE")
    pruned = apply(base, plan, arguments.out)
    plan_file = arguments.out.with_name(arguments.out.name + ".plan.json")
    plan.save(plan_file)
    return pruned.summary() | {
        "folder": str(pruned.folder),
        "plan": str(plan_file),
        "dropped": [plan.start, plan.stop],
    }


def distill(arguments: argparse.Namespace) -> dict[str, Any]:
    """Let the unpruned model rewrite a dataset's answers."""
    from regrow.config import parse
    from regrow.records import read_records
    from regrow.selfdata import SelfDataSpec
    from regrow.selfdata import distill as distill_records
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
    data = distill_records(
        _open(arguments.model),
        read_records(spec),
        spec.family,
        parse(SelfDataSpec, settings, "distill"),
        arguments.out,
    )
    return {"folder": str(data.folder)} | data.summary


def validate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Hold a rewritten dataset against the gate."""
    from regrow import quality
    from regrow.config import parse
    from regrow.selfdata import SelfData

    gate = parse(quality.GateSpec, _yaml(arguments.gate), str(arguments.gate))
    tokenizer = _open(arguments.model).chat_tokenizer() if arguments.model else None
    result = quality.validate(SelfData.open(arguments.data), gate, arguments.data.name, tokenizer=tokenizer)
    if arguments.page:
        arguments.page.write_text(quality.page(result), encoding="utf-8")
    status = 0 if result.passed else GateFailedError.exit_status
    return (
        result.model_dump(mode="json")
        | {"exit_status": status}
        | ({} if arguments.json else {"text": quality.explain(result)})
    )


def tune(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune a model."""
    from regrow.config import parse
    from regrow.tune import Recipe
    from regrow.tune import tune as tune_model

    recipe = parse(Recipe, _yaml(arguments.recipe), str(arguments.recipe or "recipe"))
    tuned = tune_model(_open(arguments.model), arguments.data, recipe, arguments.out)
    return {"folder": str(tuned.folder)} | tuned.summary


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Score models; the first is the unpruned one."""
    from regrow.config import parse
    from regrow.evaluate import EvaluateSpec
    from regrow.evaluate import evaluate as evaluate_model
    from regrow.evaluate.scores import recovery_interval

    spec = parse(EvaluateSpec, _yaml(arguments.suite), str(arguments.suite))
    scores = [
        evaluate_model(Path(name).name, _open(name), spec, arguments.cache) for name in arguments.models
    ]
    return {
        "models": [
            one.summary() | {"recovery": recovery_interval(one, scores[0]).value if one.scores else None}
            for one in scores
        ]
    }


def merge(arguments: argparse.Namespace) -> dict[str, Any]:
    """Merge models tuned from one parent."""
    from regrow.config import parse
    from regrow.merge import MergeSpec, merge_many

    if len(arguments.models) < 2:
        raise InputError("merge: name at least two models")
    spec = parse(MergeSpec, {"method": arguments.method, "t": arguments.t}, "merge")
    result = merge_many([_open(name) for name in arguments.models], spec, arguments.out)
    return {"folder": str(result.checkpoint.folder)} | result.summary()


def register(arguments: argparse.Namespace) -> dict[str, Any]:
    """Register a model in MLflow."""
    from regrow.config import parse
    from regrow.registry import RegistrySpec
    from regrow.registry import register as register_model

    spec = parse(RegistrySpec, {"name": arguments.name, "alias": arguments.alias}, "register")
    done = register_model(_open(arguments.model), spec, tags=_pairs(arguments.tag, "--tag"), metrics={})
    return done.model_dump(mode="json") | {"uri": done.uri}


def digest(arguments: argparse.Namespace) -> dict[str, Any]:
    """Name a model folder's content."""
    from regrow.checkpoint import Checkpoint

    checkpoint = Checkpoint.open(arguments.folder)
    return {
        "digest": checkpoint.digest,
        "folder": str(checkpoint.folder),
        "parameters": checkpoint.parameters,
    }
