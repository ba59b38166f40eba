"""Hold a rewritten dataset against the gate."""

import argparse
from pathlib import Path
from typing import Any

from regrow.commands.shared import SELF_DATA, family_option, open_model, read_yaml
from regrow.errors import GateFailedError, InputError


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help=SELF_DATA)
    family_option(parser)
    add("--gate", type=Path, help="YAML file with thresholds (default: the built-in ones)")
    add("--model", help="model whose chat template and tokens are checked")
    add("--suite", help="name or YAML file of an evaluation suite: rows that share its wording go")
    add("--page", type=Path, help="write the result as an HTML page")
    add(
        "--out",
        type=Path,
        help="folder for the accepted records, gate.json, gate.html, data_docs.html and quarantine.jsonl",
    )


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Hold a rewritten dataset against the gate."""
    from tempfile import TemporaryDirectory

    from regrow import quality
    from regrow.evaluate import task_texts
    from regrow.evaluate.suites import read_suite
    from regrow.parsing import parse
    from regrow.selfdata import SelfData

    if arguments.out and arguments.out.exists():
        raise InputError(f"{arguments.out}: already exists; name another --out folder or remove it")
    gate = parse(quality.GateSpec, read_yaml(arguments.gate), str(arguments.gate))
    data = SelfData.open(arguments.data, arguments.family)
    tokenizer = open_model(arguments.model).chat_tokenizer() if arguments.model else None
    texts = None
    if arguments.suite:
        texts = task_texts(read_suite(arguments.suite))
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
