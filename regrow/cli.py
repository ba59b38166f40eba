"""The `regrow` command: each stage alone, or the whole pipeline.

Results go to standard output (`--json`: one JSON object), progress and logs to standard error. Exit status:
0 done, 1 failed, 2 bad usage or input, 3 a gate was not passed, 75 stopped by SIGTERM and saved.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regrow import __version__, commands
from regrow.errors import RegrowError

Handler = Callable[[argparse.Namespace], dict[str, Any]]
_SELF_DATA = "folder that distill wrote, or a file of its records (.jsonl, .parquet, .csv)"
_MODEL = "model folder, GGUF file, hub:org/name@revision or mlflow:models:/name@alias"


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    arguments = _parser().parse_args(argv)
    _log_to_stderr(logging.INFO if arguments.verbose else logging.WARNING)
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


def _log_to_stderr(level: int) -> None:
    """Show regrow's own log; the libraries' loggers keep the handlers that they make themselves."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
    logger = logging.getLogger("regrow")
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


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
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, handler: Handler, description: str) -> argparse.ArgumentParser:
        one = subparsers.add_parser(name, help=description, description=description)
        one.add_argument("--json", action="store_true", help="print the result as one JSON object")
        one.add_argument("-v", "--verbose", action="store_true", help="log what is being done")
        one.set_defaults(handler=handler)
        return one

    run = command("run", commands.run, "run the whole pipeline from a configuration file")
    run.add_argument(
        "config", type=Path, metavar="CONFIG", help="ZenML run configuration, such as configs/demo.yaml"
    )
    run.add_argument("--stack", help="registered ZenML stack (default: the local one of this folder)")

    importance = command(
        "importance",
        commands.importance,
        "measure which blocks, neurons, KV groups and channels matter; writes importance.json",
    )
    importance.add_argument("model", metavar="MODEL", help=_MODEL)
    _text_options(importance, required=True)
    importance.add_argument(
        "--settings",
        type=Path,
        help="YAML of regrow.importance.ImportanceSpec: criteria that search, batch size, ...",
    )
    importance.add_argument("--max-tokens", type=int, help="tokens kept of each text (default: 256)")
    importance.add_argument(
        "--all-tokens", action="store_true", default=None, help="angular distance over all tokens, too"
    )
    importance.add_argument(
        "--skip-first", type=int, help="leading tokens that means over tokens leave out (default: 0)"
    )
    importance.add_argument(
        "--placement",
        choices=("auto", "whole", "blocks"),
        help="load the whole model, or one block at a time (default: auto, whole if it fits into memory)",
    )
    importance.add_argument(
        "--states",
        choices=("memory", "disk"),
        help="where hidden states wait for the next block (default: memory)",
    )
    importance.add_argument("--out", type=Path, required=True, help="folder for importance.json")

    prune = command("prune", commands.prune, "remove blocks, neurons, KV groups or channels")
    prune.add_argument("model", metavar="MODEL", help=_MODEL)
    prune.add_argument("--plan", type=Path, help="plan file: plan.json of a pruned model, or of --dry-run")
    prune.add_argument("--blocks", type=int, help="number of blocks to remove")
    prune.add_argument(
        "--drop", metavar="START:STOP", help="blocks to remove, 0-based, half-open: 21:27, or 5,13:17"
    )
    prune.add_argument("--neurons", type=int, help="MLP neurons that stay in each block")
    prune.add_argument(
        "--groups", type=int, help="KV groups, with their query heads, that stay in each block"
    )
    prune.add_argument("--channels", type=int, help="channels (hidden size) that stay")
    prune.add_argument(
        "--to-params", help="parameters of the pruned model, such as 6.7B; the nearest size is taken"
    )
    prune.add_argument("--to-ratio", type=float, help="parameters over the unpruned model's, such as 0.8")
    prune.add_argument(
        "--by",
        choices=("depth", "neurons", "groups", "channels", "width"),
        help="what goes to reach --to-params or --to-ratio (default: depth)",
    )
    prune.add_argument("--criterion", help="what chooses the blocks (default: angular_distance)")
    prune.add_argument("--seed", type=int, help="seed of the criterion random")
    prune.add_argument("--importance", type=Path, help="importance.json of this model")
    _text_options(prune, required=False)
    prune.add_argument(
        "--dry-run", action="store_true", help="make the plan only; --out is then the plan file"
    )
    prune.add_argument("--out", type=Path, help="folder for the pruned model")

    compare = command("compare", commands.compare, "prune by every criterion and see what each choice does")
    compare.add_argument("model", metavar="MODEL", help=_MODEL)
    compare.add_argument("--importance", type=Path, required=True, help="importance.json of this model")
    compare.add_argument("--suite", type=Path, required=True, help="YAML of regrow.evaluate.EvaluateSpec")
    compare.add_argument(
        "--blocks", type=_numbers, required=True, metavar="N,N", help="numbers of blocks: 3,6,9"
    )
    compare.add_argument(
        "--criteria",
        type=_names,
        default=["angular_distance", "block_influence", "reverse"],
        metavar="NAME,NAME",
    )
    compare.add_argument(
        "--widths", type=_names, default=[], metavar="NAME,NAME", help="neurons, groups, channels, width"
    )
    compare.add_argument("--seeds", type=int, default=1, help="random choices of each size (default: 1)")
    compare.add_argument(
        "--out", type=Path, required=True, help="folder for comparison.json and comparison.md"
    )

    distill = command("distill", commands.distill, "let the unpruned model rewrite a dataset's answers")
    distill.add_argument("model", metavar="MODEL", help=_MODEL)
    distill.add_argument("--data", required=True, help="dataset: a file, a folder or hub:org/name@revision")
    distill.add_argument("--adapter", default="columns", help="what the rows look like (default: columns)")
    distill.add_argument("--column", action="append", metavar="FIELD=COLUMN", help="for the adapter columns")
    _family_option(distill)
    distill.add_argument(
        "--skip-malformed",
        dest="malformed",
        action="store_const",
        const="skip",
        default="stop",
        help="leave rows out that cannot be read, instead of stopping",
    )
    distill.add_argument("--limit", type=int, help="number of records")
    distill.add_argument(
        "--engine",
        choices=("transformers", "vllm", "endpoint"),
        help="what generates (default: transformers)",
    )
    distill.add_argument(
        "--url", help="for the engine endpoint: base URL of the server, such as http://host:8000/v1"
    )
    distill.add_argument("--served-model", help="for the engine endpoint: the model's name there")
    distill.add_argument("--in-flight", type=int, help="for the engine endpoint: requests at one time")
    distill.add_argument("--template", help="template name or file (default: the family's)")
    distill.add_argument(
        "--no-reference",
        dest="use_reference",
        action="store_const",
        const=False,
        help="fresh answers: hide the reference",
    )
    distill.add_argument("--max-new-tokens", type=int, help="longest answer, in tokens (default: 256)")
    distill.add_argument("--attempts", type=int, help="tries per record, the first one greedy (default: 1)")
    distill.add_argument(
        "--temperature", type=float, help="0 is greedy (default; 0.7 for the further ones of several tries)"
    )
    distill.add_argument("--seed", type=int, help="seed of sampling and of the records' order (default: 0)")
    distill.add_argument(
        "--settings", type=Path, help="YAML of regrow.selfdata.SelfDataSpec: shard size, banned phrases, ..."
    )
    distill.add_argument(
        "--out", type=Path, required=True, help="folder for records.parquet and summary.json"
    )
    distill.add_argument(
        "--export", type=Path, help="write the records as a .jsonl, .parquet or .csv file, too"
    )

    validate = command("validate", commands.validate, "hold a rewritten dataset against the gate")
    validate.add_argument("data", type=Path, metavar="DATA", help=_SELF_DATA)
    _family_option(validate)
    validate.add_argument("--gate", type=Path, help="YAML file with thresholds (default: the built-in ones)")
    validate.add_argument("--model", help="model whose chat template and tokens are checked")
    validate.add_argument(
        "--suite", type=Path, help="YAML of regrow.evaluate.EvaluateSpec: rows that share its wording go"
    )
    validate.add_argument("--page", type=Path, help="write the result as an HTML page")
    validate.add_argument(
        "--out",
        type=Path,
        help="folder for the accepted records, gate.json, gate.html, data_docs.html and quarantine.jsonl",
    )

    shift = command(
        "shift", commands.shift, "see whether rewrites lie closer to the model than the references"
    )
    shift.add_argument("data", type=Path, metavar="DATA", help=_SELF_DATA)
    _family_option(shift)
    shift.add_argument("--model", required=True, help=f"the unpruned model: {_MODEL}")
    shift.add_argument("--settings", type=Path, help="YAML of regrow.selfdata.ShiftSpec: encoder, limit, ...")
    shift.add_argument("--out", type=Path, required=True, help="folder for shift.json and shift.html")

    tune = command("tune", commands.tune, "fine-tune a model on a dataset that passed the gate")
    tune.add_argument("model", metavar="MODEL", help=_MODEL)
    tune.add_argument(
        "--data",
        type=Path,
        action="append",
        required=True,
        help="distill's folder, or a file of examples; twice for method continual: first and second phase",
    )
    tune.add_argument(
        "--recipe",
        default="sft-lora",
        metavar="FILE|NAME",
        help="YAML of regrow.tune.Recipe, or a recipe that comes with regrow (default: sft-lora)",
    )
    tune.add_argument(
        "--teacher", metavar="MODEL", help="the unpruned model, for methods that distil from it"
    )
    tune.add_argument(
        "--work",
        type=Path,
        help="folder of the unfinished run, on a volume that outlives the pod (default: by --out)",
    )
    tune.add_argument(
        "--processes", type=int, help="processes on this machine (default: one for each GPU, or one)"
    )
    tune.add_argument("--nodes", type=int, help="machines that run this very command (default: 1)")
    tune.add_argument("--node-rank", type=int, help="number of this machine; 0 writes --out (default: 0)")
    tune.add_argument("--main-address", help="address of machine 0")
    tune.add_argument("--main-port", type=int, help="port on machine 0, needed for several machines")
    tune.add_argument(
        "--sharding", choices=("auto", "none", "fsdp"), help="spread weights over the GPUs (default: auto)"
    )
    tune.add_argument(
        "--out", type=Path, required=True, help="folder for checkpoint, adapter, log and summary"
    )

    fuse = command("fuse", commands.fuse, "write an adapter into the weights of the model it was trained on")
    fuse.add_argument("model", metavar="MODEL", help="the adapter's parent: " + _MODEL)
    fuse.add_argument("--adapter", type=Path, required=True, help="folder that tune left, or PEFT")
    fuse.add_argument("--out", type=Path, required=True, help="folder for the merged model")

    evaluate = command("evaluate", commands.evaluate, "score models on tasks and held-out text")
    evaluate.add_argument("models", metavar="MODEL", nargs="+", help="the unpruned model first; " + _MODEL)
    evaluate.add_argument("--suite", type=Path, required=True, help="YAML file: an evaluation section")
    evaluate.add_argument("--cache", type=Path, help="folder that keeps finished results")

    merge = command("merge", commands.merge, "merge models tuned from one parent")
    merge.add_argument("models", metavar="MODEL", nargs="+", help="two or more model folders")
    merge.add_argument("--method", choices=("slerp",), default="slerp")
    merge.add_argument("--t", type=float, default=0.5, help="place between two models (default: 0.5)")
    merge.add_argument("--out", type=Path, required=True, help="folder for the merged model")

    register = command("register", commands.register, "register a model in MLflow ($MLFLOW_TRACKING_URI)")
    register.add_argument("model", metavar="MODEL", help=_MODEL)
    register.add_argument("--name", required=True, help="name of the registered model")
    register.add_argument("--alias", default="challenger", help="alias to move (default: challenger)")
    register.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE", help="tag of the version"
    )

    digest = command("digest", commands.digest, "print the digest that names a model folder's content")
    digest.add_argument("folder", type=Path, metavar="FOLDER")
    return parser


def _family_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--family",
        choices=("choice", "math", "text", "open"),
        help="kind of final answer, where DATA does not say it",
    )


def _names(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _numbers(text: str) -> list[int]:
    return [int(one) for one in _names(text)]


def _text_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument("--data", required=required, help="calibration texts: a file, folder or hub dataset")
    parser.add_argument("--text-column", default="text", help="column with the text (default: text)")
    parser.add_argument("--samples", type=int, default=128, help="calibration texts (default: 128)")


if __name__ == "__main__":
    sys.exit(main())
