"""A run's results made up for tests of the report: the shapes are those of a real run."""

import math
import random
from typing import Any


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
