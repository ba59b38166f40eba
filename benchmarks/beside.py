"""SmolLM2-135M-Instruct without 6 of 30 blocks against the whole one: drift, health, cost, and drafting.

    python -m benchmarks.beside [--questions 32] [--runs 3] [--out runs/beside]

The model and the calibration texts are those of configs/demo.yaml, and so are the blocks that go. The questions
are SciQ's, asked without their choices. Nothing is tuned after the cut.
"""

import argparse
from pathlib import Path
from typing import Any

import yaml

from benchmarks.criteria import DEMO, demo_model
from regrow.checkpoint import Checkpoint
from regrow.evaluate import EvaluateSpec, evaluate_against
from regrow.evaluate.beside import measures_table
from regrow.files import write_json
from regrow.importance import ImportanceSpec, compute
from regrow.prune import PruneSpec, apply, make_plan
from regrow.source import TextSpec, read_texts


def pruned(base: Checkpoint, parameters: dict[str, Any], out: Path) -> Checkpoint:
    """Return the demo's pruned model; it is made once."""
    if not out.exists():
        texts = read_texts(TextSpec(**parameters["calibration"]))
        importance = compute(base, texts, ImportanceSpec(**parameters["importance"]))
        apply(base, make_plan(base, PruneSpec(**parameters["prune"]), importance), out)
    return Checkpoint.open(out)


def suite(parameters: dict[str, Any], questions: int, rounds: int) -> EvaluateSpec:
    """Return what is measured."""
    science = parameters["datasets"][0]
    prompts = {
        "name": "sciq-questions",
        "source": science["source"],
        "sha256": science["sha256"],
        "adapter": "columns",
        "columns": {"instruction": "question", "reference": "correct_answer"},
        "limit": questions,
    }
    return EvaluateSpec.model_validate(
        {
            "answers": {"prompts": prompts, "max_new_tokens": 96},
            "speed": {"prompt_tokens": 256, "new_tokens": 32, "batch_sizes": [1, 8], "rounds": rounds},
            "draft": {"tokens": [1, 2, 4], "new_tokens": 48, "limit": 6, "rounds": rounds},
        }
    )


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=32, help="questions to answer (default: 32)")
    parser.add_argument("--runs", type=int, default=3, help="rounds of every timing (default: 3)")
    parser.add_argument("--out", type=Path, default=Path("runs/beside"), help="default: runs/beside")
    asked = parser.parse_args()
    parameters = yaml.safe_load(DEMO.read_text(encoding="utf-8"))["parameters"]
    base = demo_model(parameters)
    model = pruned(base, parameters, asked.out / "pruned")
    spec = suite(parameters, asked.questions, asked.runs)
    found = evaluate_against(base, {"pruned": model}, spec, asked.out / "cache")
    write_json(asked.out / "measures.json", found.summary())
    print(measures_table(found))


if __name__ == "__main__":
    main()
