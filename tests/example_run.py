"""Results of a run and of a study, made up for tests of the report: the shapes are those of real ones."""

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from regrow.evaluate.against import Measures
from regrow.evaluate.drift import Drift
from regrow.evaluate.health import Health
from regrow.evaluate.scores import Scores, TaskScore
from regrow.evaluate.speculative import Drafting, Speculation
from regrow.evaluate.speed import Speed, Timing
from regrow.study import Cell, StudyResult, gather
from regrow.tune.record import TuningRecord


def summary() -> dict[str, Any]:
    rows = [
        ("base", 134515008, 339738624, 24.5, (0.52, 0.35, 0.44), 1.0, None),
        ("pruned", 113272128, 288000000, 63.1, (0.44, 0.3, 0.38), 0.855, (0.79, 0.92)),
        ("tuned-alpaca", 113272128, 288000000, 47.0, (0.49, 0.32, 0.41), 0.931, (0.87, 0.99)),
        ("tuned-sciq", 113272128, 288000000, 52.6, (0.48, 0.33, 0.4), 0.924, (0.86, 0.99)),
        ("merged", 113272128, 288000000, 46.1, (0.5, 0.33, 0.42), 0.954, (0.89, 1.02)),
    ]
    tasks = ("arc_easy", "openbookqa", "hellaswag")
    models = [
        {
            "name": name,
            "folder": f"runs/latest/{name}",
            "digest": f"{i:x}" * 64,
            "parameters": parameters,
            "flops_per_token": flops,
            "perplexity": perplexity,
            "scores": {
                task: {"value": value, "stderr": 0.034, "samples": 200, "metric": "acc_norm,none"}
                for task, value in zip(tasks, values, strict=True)
            },
            "recovery": recovery,
            "recovery_interval": list(interval) if interval else [None, None],
        }
        for i, (name, parameters, flops, perplexity, values, recovery, interval) in enumerate(rows)
    ]
    return {
        "models": models,
        "registered": {"name": "regrow-demo", "version": "3", "alias": "challenger", "digest": "4" * 64},
        "datasets": [
            {"name": "alpaca", "records": 512, "acceptance_rate": 0.71, "gate": "passed", "digest": "a" * 64},
            {"name": "sciq", "records": 480, "acceptance_rate": 0.38, "gate": "passed", "digest": "b" * 64},
        ],
        "seconds": {"load_model": 11.0, "generate_self_data": 312.4, "fine_tune": 401.0, "evaluate": 203.5},
        "peak_memory_bytes": 3_400_000_000,
    }


def details() -> dict[str, Any]:
    draw = random.Random(0)
    depth = 30

    def angle(start: int, size: int) -> float:
        ends = math.exp(-start / 2) + math.exp(-(depth - start - size) / 2)
        middle = 0.006 * abs(start + size / 2 - 16)
        return min(0.6, 0.02 + 0.011 * size + 0.2 * ends + middle)

    distance = [
        [angle(start, size) if start + size <= depth else None for start in range(depth)]
        for size in range(1, depth + 1)
    ]
    return {
        "importance": {
            "angular_distance": distance,
            "block_influence": [angle(block, 1) + draw.random() / 50 for block in range(depth)],
            "samples": 64,
            "tokens": 12345,
        },
        "plan": {
            "removed": [13, 14, 15, 16, 17, 18],
            "depth": depth,
            "criterion": "angular_distance",
            "score": 0.1034,
            "text": "Removed 6 of 30 blocks: 13:19 (counted from 0, half-open).",
        },
        "decisions": {
            "alpaca": {"rewritten": 364, "kept: banned phrase": 60, "kept: unfinished": 88},
            "sciq": {"rewritten": 182, "kept: answer differs": 270, "kept: empty": 28},
        },
        "rewrites": [
            {
                "dataset": "sciq",
                "instruction": "What do plants take from the air?\nA. oxygen\nB. carbon dioxide",
                "input": "",
                "reference": "B",
                "response": "Plants take in carbon dioxide and make sugar of it in the light.\n\nB",
                "rewrite": "Plants take in carbon dioxide and make sugar of it in the light.\n\nB",
                "decision": "rewritten",
            },
            {
                "dataset": "sciq",
                "instruction": "<script>alert(1)</script> Which is smaller, 2 or 3?",
                "input": "a & b",
                "reference": "2",
                "response": "2",
                "rewrite": "Three is the smaller one.",
                "decision": "kept: answer differs",
            },
        ],
        "gates": [
            {
                "dataset": dataset,
                "digest": "d" * 64,
                "records": 512,
                "passed": True,
                "removed": 3,
                "removed_by": {"contamination": 2, "secrets": 1},
                "expectations": [
                    {
                        "name": name,
                        "column": "decision",
                        "success": success,
                        "severity": severity,
                        "observed": "71.0 % of rewrites accepted",
                        "threshold": "at least 25 %",
                        "value": 0.71,
                        "advice": "use a stronger model",
                        "expectation": "expect_column_values_to_be_between",
                        "offending": [],
                    }
                    for name, success, severity in (
                        ("acceptance_rate", True, "stop"),
                        ("duplicates", False, "warn"),
                    )
                ],
            }
            for dataset in ("alpaca", "sciq")
        ],
        "logs": {
            name: [
                {"step": step, "loss": 2.2 * math.exp(-step / 60) + 1.4 + draw.random() / 3}
                for step in range(1, 121)
            ]
            for name in ("alpaca", "sciq")
        },
        "tuning": {"alpaca": {"steps": 120, "tokens": 90000, "tokens_per_second": 410.0}},
        "merge": {
            "tensors": 218,
            "linear": 97,
            "linear_share": 0.44,
            "mean_angle": 0.031,
            "largest_angle": 0.22,
        },
        "settings": {"prune": {"blocks": 6}, "merge": {"method": "slerp", "t": 0.5}},
    }


TASKS = {"arc_easy": 240, "openbookqa": 120, "piqa": 160}
# By arm: share of the lost score that comes back, and how far its answers are from the unpruned model's.
ARMS = {
    "no tuning": (None, 1.0),
    "SFT": (0.25, 0.62),
    "self-data SFT": (0.55, 0.34),
    "distillation": (0.5, 0.3),
    "merged self-data": (0.45, 0.38),
}
VERSIONS = {"lm_eval": "0.4.13", "transformers": "5.23.0", "torch": "2.13.0"}


def scores(
    name: str,
    share: float,
    *,
    seed: int = 0,
    parameters: int = 134_515_008,
    flops: int = 339_738_624,
    perplexity: float = 24.5,
    tasks: Mapping[str, int] = TASKS,
) -> Scores:
    """A model that solves about so many items; the same items are easy for every model."""
    own = random.Random(f"{name} {seed}")
    found = {}
    for task, count in tasks.items():
        easy = random.Random(task)
        items = tuple(float(share + 0.22 * own.gauss(0, 1) > easy.random()) for _ in range(count))
        value = sum(items) / count
        found[task] = TaskScore(
            metric="acc_norm,none", value=value, stderr=math.sqrt(value * (1 - value) / (count - 1)), samples=count,
            items=items, questions=task, version="1.0",
        )  # fmt: skip
    return Scores(
        name=name,
        digest=hashlib.sha256(f"{name} {seed}".encode()).hexdigest(),
        parameters=parameters,
        flops_per_token=flops,
        perplexity=perplexity,
        perplexity_tokens=9000,
        scores=found,
        settings={"batch_size": 16, "dtype": "float32", "chat_template": False, "seed": 1234, **VERSIONS},
        seconds=30.0,
    )


def drift(name: str, distance: float, *, seed: int = 0, questions: int = 48) -> Drift:
    """Answers of a model that has moved so far (0 to 1)."""
    own = random.Random(f"drift {name} {seed}")

    def health(share: float) -> Health:
        return Health(
            answers=questions, empty=0.02 * share, unfinished=0.1 + 0.3 * share, looping=0.2 * share,
            repetition=0.04 + 0.2 * share, length=61.0,
        )  # fmt: skip

    return Drift(
        name=name,
        model=hashlib.sha256(f"{name} {seed}".encode()).hexdigest(),
        base="0" * 64,
        questions="9" * 64,
        skipped=0,
        encoder="encoder",
        similarity=tuple(max(-0.2, 1 - distance * own.betavariate(2, 4)) for _ in range(questions)),
        same=tuple(own.random() > 0.5 + distance for _ in range(questions)),
        tokens=tuple(random.Random(i).randrange(20, 90) for i in range(questions)),
        agreement=tuple(max(0.0, 1 - 0.6 * distance * own.betavariate(4, 4)) for _ in range(questions)),
        kl=tuple(1.5 * distance * own.betavariate(2, 5) for _ in range(questions)),
        health=health(distance),
        base_health=health(0),
        settings={"max_new_tokens": 96, "batch_size": 8, "dtype": "float32", **VERSIONS},
    )


def training(key: str, start: float, seed: int) -> TuningRecord:
    draw = random.Random(f"{key} {seed}")
    return TuningRecord(
        dataset=key,
        digest=hashlib.sha256(f"tuned {key} {seed}".encode()).hexdigest(),
        log=[
            {"step": step, "loss": start * math.exp(-step / 40) + 1.1 + draw.gauss(0, 0.12)}
            for step in range(1, 121)
        ],
        summary={"tokens": 180_000, "seconds": 905.0},
    )


def study(
    arms: Mapping[str, tuple[float | None, float]] = ARMS,
    *,
    blocks: Sequence[int] = (3, 6, 9),
    records: Sequence[int | None] = (None,),
    seeds: Sequence[int] = (0, 1, 2),
    measured: bool = True,
    reference: str | None = "SFT",
    tasks: Mapping[str, int] = TASKS,
) -> StudyResult:
    """A study; `arms` gives the share of the loss that comes back (none: untuned) and the drift."""
    base = scores("base", 0.56, tasks=tasks)
    cells, found, drifts, tunings = [], [], [], []
    for cut in blocks:
        lost = 0.05 * cut
        size = {"parameters": 134_515_008 - 3_540_000 * cut, "flops": 339_738_624 - 8_600_000 * cut}
        for arm, (back, distance) in arms.items():
            for count in (None,) if back is None else records:
                for seed in (None,) if back is None else seeds:
                    cell = Cell(blocks=cut, arm=arm, records=count, seed=seed)
                    grown = 0.0 if back is None else back * (1 if count is None else count / (count + 400))
                    share = 0.56 - lost * (1 - grown)
                    cells.append(cell)
                    found.append(
                        scores(
                            cell.key,
                            share,
                            seed=seed or 0,
                            perplexity=24.5 * math.exp(2 * lost * (1 - grown) + 0.01 * (seed or 0)),
                            tasks=tasks,
                            **size,
                        )
                    )
                    drifts.append(drift(cell.key, min(1.0, distance * (0.5 + cut / 9)), seed=seed or 0))
                    if back is not None:
                        tunings.append(training(cell.key, 2.0 * distance + 0.1 * cut, seed or 0))
    config = {
        "model": {"source": "hub:example/model@main"},
        "blocks": list(blocks),
        "arms": [{"name": name} for name in arms],
        "seeds": list(seeds),
    }
    return gather(cells, base, found, drifts if measured else [], tunings, reference=reference, config=config)


def run_models() -> list[Scores]:
    """Scores of the models of `summary`, item by item."""
    return [
        scores(row["name"], row["scores"]["arc_easy"]["value"], parameters=row["parameters"],
               flops=row["flops_per_token"], perplexity=row["perplexity"])
        for row in summary()["models"]
    ]  # fmt: skip


def speeds() -> list[Speed]:
    def one(name: str, factor: float, parameters: int) -> Speed:
        return Speed(
            name=name, digest=name, parameters=parameters, checkpoint_bytes=4 * parameters,
            memory_bytes=int(4.4 * parameters), flops_per_token=int(2.2 * parameters), flops_counted=2.2 * parameters,
            prompt_tokens=256, new_tokens=32, dtype="float32", device="cpu", threads=2,
            timings=tuple(
                Timing(batch_size=size, prefill=(0.31 * size * factor, 0.33 * size * factor, 0.3 * size * factor),
                       step=(0.021 * factor, 0.022 * factor, 0.0205 * factor))
                for size in (1, 8)
            ),
        )  # fmt: skip

    return [one("base", 1.0, 134_515_008), one("pruned", 0.82, 113_272_128)]


def measures() -> Measures:
    moved = {"pruned": 0.8, "tuned-alpaca": 0.5, "tuned-sciq": 0.6, "merged": 0.4}
    runs = tuple(
        Drafting(
            tokens=k, passes=400, new_tokens=1000, drafted=400 * k, accepted=600 + 60 * k, refused=200, differing=0,
            verify_seconds=0.024, rates=(44.0 + k, 45.0 + k, 43.0 + k),
        )
        for k in (2, 4)
    )  # fmt: skip
    draft = Speculation(
        name="pruned", draft="1" * 64, target="0" * 64, prompts=16, rates=(46.0, 47.0, 45.5),
        target_seconds=0.021, draft_seconds=0.017, runs=runs, settings={},
    )  # fmt: skip
    drifts = tuple(drift(name, distance) for name, distance in moved.items())
    return Measures(drifts=drifts, speeds=tuple(speeds()), drafts=(draft,))
