"""What each command of `regrow` does: arguments in, a call into the stage, a result for the terminal out."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from regrow.errors import GateFailedError, InputError

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint
    from regrow.importance import LayerImportance
    from regrow.prune import PrunePlan


def open_model(source: str) -> "Checkpoint":
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


def _yaml(path: Path | None) -> dict[str, Any]:
    import yaml

    if path is None:
        return {}
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: holds a {type(value).__name__}; write one NAME: VALUE a line")
    return value


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
    """Measure which blocks and units of width matter."""
    from regrow.importance import choose_blocks

    out = arguments.out
    result = _measure(arguments, out / ".partial")
    result.save(out / "importance.json")
    page = _page("importance_page", result, out / "importance.html")
    best = {
        size: choose_blocks(result, result.blocks, "angular_distance", size)
        for size in range(1, result.blocks)
    }
    return {
        "importance": str(out / "importance.json"),
        **({"page": str(page)} if page else {}),
        "model": result.model_digest,
        "samples": result.samples,
        "tokens": result.tokens,
        "best": {str(size): [choice.removed[0], choice.score] for size, choice in best.items()},
    }


def _page(draw: str, result: Any, path: Path) -> Path | None:
    """Draw a result by a function of regrow.report, where there is something to draw with (regrow[pipeline])."""
    from importlib.util import find_spec

    if not (find_spec("matplotlib") and find_spec("jinja2")):
        return None
    from regrow import report

    path.write_text(getattr(report, draw)(result), encoding="utf-8")
    return path


def _measure(arguments: argparse.Namespace, work: Path | None = None) -> "LayerImportance":
    from regrow import importance as layers
    from regrow.config import parse
    from regrow.source import TextSpec, read_texts

    texts = {
        "name": "calibration",
        "source": arguments.data,
        "column": arguments.text_column,
        "limit": arguments.samples,
    }
    settings = _yaml(getattr(arguments, "settings", None))
    for name in ("max_tokens", "all_tokens", "placement", "states", "skip_first"):
        if (value := getattr(arguments, name, None)) is not None:
            settings[name] = value
    spec = parse(layers.ImportanceSpec, settings, "importance")
    return layers.compute(
        open_model(arguments.model), read_texts(parse(TextSpec, texts, "--data")), spec, work
    )


def prune(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make a plan, and apply it."""
    from regrow.prune import PrunePlan, apply

    if not (arguments.out or arguments.dry_run):
        raise InputError("--out: name the folder for the pruned model (or say --dry-run)")
    base = open_model(arguments.model)
    plan = PrunePlan.read(arguments.plan) if arguments.plan else _plan(base, arguments)
    if arguments.dry_run:
        if arguments.out:
            plan.save(arguments.out)
        return (
            plan.summary()
            | {"what": plan.describe()}
            | ({"plan": str(arguments.out)} if arguments.out else {})
        )
    pruned = apply(base, plan, arguments.out)
    return (
        pruned.summary()
        | {"folder": str(pruned.folder), "plan": str(pruned.folder / "plan.json")}
        | plan.summary()
        | {"share_of_parameters": round(pruned.parameters / base.parameters, 4)}
    )


def _plan(base: "Checkpoint", arguments: argparse.Namespace) -> "PrunePlan":
    from regrow.config import parse
    from regrow.importance import LayerImportance
    from regrow.prune import PruneSpec, make_plan

    names = (
        "blocks",
        "drop",
        "neurons",
        "groups",
        "channels",
        "to_params",
        "to_ratio",
        "by",
        "criterion",
        "seed",
    )
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    spec = parse(PruneSpec, given, "prune")
    if arguments.importance:
        measured = LayerImportance.read(arguments.importance)
    elif not spec.needs_importance:
        measured = None
    elif arguments.data:
        measured = _measure(arguments)
    else:
        raise InputError("prune: say how to choose what goes, with --importance FILE or --data FILE")
    return make_plan(base, spec, measured)


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Prune by every criterion, and see what each did."""
    from regrow.compare import compare as compare_criteria
    from regrow.config import parse
    from regrow.evaluate import EvaluateSpec
    from regrow.importance import CRITERIA, LayerImportance

    for option, given, known in (
        ("--criteria", arguments.criteria, CRITERIA),
        ("--widths", arguments.widths, ("neurons", "groups", "channels", "width")),
    ):
        if unknown := sorted(set(given) - set(known)):
            raise InputError(f"{option}: unknown {unknown[0]!r}; choose among {', '.join(known)}")
    result = compare_criteria(
        open_model(arguments.model),
        LayerImportance.read(arguments.importance),
        parse(EvaluateSpec, _yaml(arguments.suite), str(arguments.suite)),
        arguments.out,
        sizes=arguments.blocks,
        criteria=arguments.criteria,
        widths=arguments.widths,
        seeds=range(arguments.seeds),
    )
    return result.model_dump(mode="json") if arguments.json else {"text": result.table()}


def distill(arguments: argparse.Namespace) -> dict[str, Any]:
    """Let the unpruned model rewrite a dataset's answers."""
    from regrow.config import parse
    from regrow.records import read_and_count
    from regrow.selfdata import SelfDataSpec, export
    from regrow.selfdata import distill as distill_records
    from regrow.selfdata.store import SUFFIXES
    from regrow.source import DatasetSpec

    dataset = {
        "name": "data",
        "source": arguments.data,
        "adapter": arguments.adapter,
        "columns": _pairs(arguments.column, "--column") if arguments.column else None,
        "limit": arguments.limit,
        "seed": arguments.seed or 0,
        "family": arguments.family,
        "malformed": arguments.malformed,
    }
    settings = _yaml(arguments.settings)
    names = ("template", "use_reference", "max_new_tokens", "attempts", "temperature", "seed", "engine")
    settings |= {name: value for name in names if (value := getattr(arguments, name)) is not None}
    server = {"url": arguments.url, "model": arguments.served_model, "in_flight": arguments.in_flight}
    if given := {name: value for name, value in server.items() if value is not None}:
        settings["endpoint"] = settings.get("endpoint", {}) | given
    if settings.get("engine") == "endpoint" and not {"url", "model"} <= set(settings.get("endpoint", {})):
        raise InputError("--engine endpoint: needs --url and --served-model")
    if arguments.export and arguments.export.suffix.lower() not in SUFFIXES:
        raise InputError(f"--export {arguments.export}: unknown format; use {', '.join(SUFFIXES)}")
    spec = parse(DatasetSpec, dataset, "--data")
    asked = parse(SelfDataSpec, settings, str(arguments.settings or "distill"))
    reading = read_and_count(spec)
    model, counts = open_model(arguments.model), reading.counts()
    data = distill_records(model, reading.records, spec.family, asked, arguments.out, read=counts)
    exported = {"export": str(export(data, arguments.export))} if arguments.export else {}
    return {"folder": str(data.folder), **exported} | data.summary


def validate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Hold a rewritten dataset against the gate."""
    from tempfile import TemporaryDirectory

    from regrow import quality
    from regrow.config import parse
    from regrow.evaluate import EvaluateSpec, task_texts
    from regrow.selfdata import SelfData

    if arguments.out and arguments.out.exists():
        raise InputError(f"{arguments.out}: already exists; name another --out folder or remove it")
    gate = parse(quality.GateSpec, _yaml(arguments.gate), str(arguments.gate))
    data = SelfData.open(arguments.data, arguments.family)
    tokenizer = open_model(arguments.model).chat_tokenizer() if arguments.model else None
    texts = None
    if arguments.suite:
        texts = task_texts(parse(EvaluateSpec, _yaml(arguments.suite), str(arguments.suite)))
    with TemporaryDirectory() as scratch:
        out = arguments.out or Path(scratch) / "gate"
        result = quality.pass_gate(
            data, gate, arguments.data.absolute().name, out, tokenizer=tokenizer, eval_texts=texts
        ).result
    if arguments.out is None:
        result = result.model_copy(update={"quarantine": None})  # it went with the scratch folder
    if arguments.page:
        arguments.page.write_text(quality.page(result), encoding="utf-8")
    status = 0 if result.passed else GateFailedError.exit_status
    return (
        result.model_dump(mode="json", exclude={"validation"})
        | {"exit_status": status}
        | ({} if arguments.json else {"text": quality.explain(result)})
    )


def shift(arguments: argparse.Namespace) -> dict[str, Any]:
    """See whether rewrites lie closer to the unpruned model than the references."""
    from regrow.config import parse
    from regrow.files import atomic_file
    from regrow.selfdata import SelfData, ShiftSpec
    from regrow.selfdata import shift as shifts

    spec = parse(ShiftSpec, _yaml(arguments.settings), str(arguments.settings))
    data = SelfData.open(arguments.data, arguments.family)
    result = shifts.measure(open_model(arguments.model), data, arguments.data.absolute().name, spec)
    with atomic_file(arguments.out / "shift.json") as scratch:
        scratch.write_text(result.model_dump_json(indent=2), encoding="utf-8")
    page = _page("shift_page", result, arguments.out / "shift.html")
    return (
        {"shift": str(arguments.out / "shift.json")}
        | ({"page": str(page)} if page else {})
        | result.summary()
    )


def tune(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fine-tune a model."""
    from regrow.config import parse
    from regrow.tune import Launch, Recipe
    from regrow.tune import tune as tune_model
    from regrow.tune.recipe import read_recipe

    recipe = parse(cast("Any", Recipe), read_recipe(arguments.recipe), arguments.recipe)
    names = ("processes", "nodes", "node_rank", "main_address", "main_port", "sharding")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    tuned = tune_model(
        open_model(arguments.model),
        arguments.data,
        recipe,
        arguments.out,
        work=arguments.work,
        teacher=open_model(arguments.teacher) if arguments.teacher else None,
        launch=parse(Launch, given, "tune"),
    )
    if tuned is None:
        return {"text": "done; machine 0 writes the result", "node_rank": arguments.node_rank}
    return {"folder": str(tuned.folder)} | tuned.summary


def fuse(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write an adapter into its parent's weights."""
    from regrow.checkpoint import Checkpoint
    from regrow.tune.fuse import fuse as fuse_adapter

    if arguments.out.exists():
        raise InputError(f"{arguments.out}: already exists; name another --out folder or remove it")
    if not (arguments.adapter / "adapter_config.json").exists():
        raise InputError(f"{arguments.adapter}: no adapter_config.json; this is not an adapter's folder")
    parent = open_model(arguments.model)
    fuse_adapter(parent, arguments.adapter, arguments.out, note=f"Parent: sha256:{parent.digest}\n")
    return {"folder": str(arguments.out)} | Checkpoint.open(arguments.out).summary()


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Score models; the first is the unpruned one."""
    from regrow.config import parse
    from regrow.evaluate import EvaluateSpec
    from regrow.evaluate import evaluate as evaluate_model
    from regrow.evaluate.scores import recovery_interval

    spec = parse(EvaluateSpec, _yaml(arguments.suite), str(arguments.suite))
    scores = [
        evaluate_model(Path(name).name, open_model(name), spec, arguments.cache) for name in arguments.models
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
    result = merge_many([open_model(name) for name in arguments.models], spec, arguments.out)
    return {"folder": str(result.checkpoint.folder)} | result.summary()


def register(arguments: argparse.Namespace) -> dict[str, Any]:
    """Register a model in MLflow."""
    from regrow.config import parse
    from regrow.registry import RegistrySpec
    from regrow.registry import register as register_model

    spec = parse(RegistrySpec, {"name": arguments.name, "alias": arguments.alias}, "register")
    done = register_model(open_model(arguments.model), spec, tags=_pairs(arguments.tag, "--tag"), metrics={})
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
