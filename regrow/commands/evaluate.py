"""Score models on tasks and held-out text; measure drift, cost and drafting."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.commands.shared import MODEL, names, open_model
from regrow.errors import InputError

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint
    from regrow.evaluate import EvaluateSpec, Measures, Scores
    from regrow.evaluate.paired import Comparison


def options(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("models", metavar="MODEL", nargs="+", help="the reference first, the unpruned model; " + MODEL)
    add("--suite", required=True, help="openllm-v1, quick, or a YAML file: an evaluation section")
    add("--sources", type=Path, metavar="FILE", help="YAML file: local copies of the questions, by task")
    add("--tasks", type=names, metavar="NAME,NAME", help="only these tasks of the suite")
    add("--limit", type=int, metavar="N", help="questions of each task; in place of the suite's own limits")
    add("--batch-size", type=int, metavar="N", help="questions in one forward pass")
    add("--dtype", choices=("auto", "bfloat16", "float16", "float32"), help="type of the computation")
    add("--chat-template", action="store_true", help="wrap questions in the model's chat template")
    add("--seed", type=int, help="seed of the choice of questions and examples")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--cache", type=Path, metavar="DIR", help="folder of finished results (default: in regrow's cache)"
    )
    where.add_argument("--no-cache", action="store_true", help="compute everything, keep nothing")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for scores.json, comparison.json, measures.json and table.md",
    )


def handle(arguments: argparse.Namespace) -> dict[str, Any]:
    """Score models with the same settings; the first is the one that the others are compared with."""
    from regrow.evaluate import evaluate, evaluate_against
    from regrow.evaluate.beside import measures_table
    from regrow.evaluate.paired import compare, holm
    from regrow.evaluate.suites import read_suite
    from regrow.evaluate.table import table
    from regrow.files import cache_dir, write_json
    from regrow.lineage.values import state_scores

    given = {name: getattr(arguments, name) for name in ("batch_size", "dtype", "seed")}
    settings = {name: value for name, value in given.items() if value is not None}
    if arguments.chat_template:
        settings["chat_template"] = True
    if arguments.limit is not None and arguments.limit < 1:
        raise InputError(f"--limit {arguments.limit}: must be at least 1")
    spec = read_suite(
        arguments.suite,
        sources=arguments.sources,
        tasks=arguments.tasks,
        limit=arguments.limit,
        **settings,
    )
    cache = None if arguments.no_cache else arguments.cache or cache_dir() / "evaluation"
    opened = [open_model(model) for model in arguments.models]
    called = unique_names([one.folder for one in opened])
    scores = [evaluate(name, one, spec, cache) for name, one in zip(called, opened, strict=True)]
    comparisons = [compare(one, scores[0]) for one in scores[1:]] if spec.tasks else []
    known = [one.p for one in comparisons if one.p is not None]
    left = iter(holm(known))
    adjusted = [None if one.p is None else next(left) for one in comparisons]
    others = dict(zip(called[1:], opened[1:], strict=True))
    measures = evaluate_against(opened[0], others, spec, cache, base_name=called[0])
    text = "\n\n".join(filter(None, [table(scores, comparisons, adjusted), measures_table(measures)]))
    result = _result(scores, comparisons, adjusted) | {"measures": measures.summary()}
    if arguments.out:
        _write(arguments.out, scores, result["comparisons"], text)
        for one, checkpoint in zip(scores, opened, strict=True):
            state_scores(one, checkpoint, arguments.out)
        if measures.summary():
            write_json(arguments.out / "measures.json", measures.model_dump(mode="json"))
            _state(measures, opened, spec, arguments.out)
    return result if arguments.json else {"text": text}


def _state(measures: "Measures", models: "Sequence[Checkpoint]", spec: "EvaluateSpec", folder: Path) -> None:
    from regrow.lineage.values import state_drift, state_speed

    base, *others = models
    if measures.drifts:
        for one, model in zip(measures.drifts, others, strict=True):
            state_drift(one, base, model, folder)
    if measures.speeds or measures.drafts:
        state_speed(measures.model_copy(update={"drifts": ()}), models, spec, folder)


def unique_names(folders: Sequence[Path]) -> list[str]:
    """Return the name of each folder, with as many of its parents as it takes to tell them apart."""
    whole = [folder.absolute().parts for folder in folders]
    called: list[str] = []
    for place, parts in enumerate(whole):
        rest = whole[:place] + whole[place + 1 :]
        for length in range(1, len(parts) + 1):
            if all(other[-length:] != parts[-length:] for other in rest):
                break
        else:
            length = 1  # the same folder twice
        name = str(Path(*parts[-length:]))
        count = called.count(name)
        called.append(name if not count else f"{name} ({count + 1})")
    return called


def _result(
    scores: "Sequence[Scores]", comparisons: "Sequence[Comparison]", adjusted: Sequence[float | None]
) -> dict[str, Any]:
    from regrow.evaluate.scores import recovery

    measured = bool(scores[0].scores and scores[0].mean)
    models = []
    for one in scores:
        entry = one.summary() | {"recovery": recovery(one, scores[0]) if measured else None}
        if entry["perplexity"] is not None and not math.isfinite(entry["perplexity"]):
            entry["perplexity"] = None  # a ruined model; JSON has no infinity
        models.append(entry)
    compared = [
        one.model_dump(mode="json") | {"p_holm": p} for one, p in zip(comparisons, adjusted, strict=True)
    ]
    return {"models": models, "comparisons": compared, "settings": scores[0].settings}


def _write(folder: Path, scores: "Sequence[Scores]", comparisons: list[dict[str, Any]], text: str) -> None:
    from regrow.files import atomic_file, write_json

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "scores.json", [one.model_dump(mode="json") for one in scores])
    write_json(folder / "comparison.json", comparisons)
    with atomic_file(folder / "table.md") as scratch:
        scratch.write_text(text + "\n", encoding="utf-8")
