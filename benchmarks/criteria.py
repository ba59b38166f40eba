"""What each criterion's choice does to SmolLM2-135M-Instruct: 3, 6 and 9 of 30 blocks, and width of the same size.

    python -m benchmarks.criteria [--out runs/criteria]

The model, the calibration texts and the held-out passages are those of configs/demo.yaml. Task search uses
WinoGrande, which is not among the tasks of the table. Interrupted, it continues.
"""

import argparse
from pathlib import Path
from typing import Any

import yaml

from regrow.checkpoint import Checkpoint
from regrow.compare import compare
from regrow.evaluate import EvaluateSpec
from regrow.files import cache_dir
from regrow.importance import CRITERIA, ImportanceSpec, LayerImportance, compute
from regrow.source import ModelSpec, TextSpec, read_texts, resolve_model

SIZES = (3, 6, 9)
DEMO = Path(__file__).parents[1] / "configs" / "demo.yaml"


def demo_model(parameters: dict[str, Any]) -> Checkpoint:
    """Return the demo's model from the cache; it is fetched once."""
    spec = ModelSpec(**parameters["model"])
    kept = cache_dir() / "models" / "benchmarks-smollm2"
    return Checkpoint.open(kept) if kept.exists() else resolve_model(spec, kept)


def measure(base: Checkpoint, parameters: dict[str, Any], out: Path) -> LayerImportance:
    """Measure every criterion, or read what an earlier call measured."""
    file = out / "importance.json"
    if file.exists():
        return LayerImportance.read(file)
    tasks = {task["name"]: task for task in parameters["evaluation"]["tasks"]}
    spec = ImportanceSpec(
        max_tokens=256,
        all_tokens=True,
        search={
            "criteria": ("perplexity", "task", "greedy"),
            "sizes": SIZES,
            "task": tasks["winogrande"] | {"limit": 100},
            "texts": 16,
        },
    )
    texts = read_texts(TextSpec(**parameters["calibration"]))
    importance = compute(base, texts, spec, out / "partial")
    importance.save(file)
    return importance


def main() -> None:
    """Measure, compare and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/criteria"), help="default: runs/criteria")
    out = parser.parse_args().out
    parameters = yaml.safe_load(DEMO.read_text(encoding="utf-8"))["parameters"]
    base = demo_model(parameters)
    importance = measure(base, parameters, out)
    evaluation = parameters["evaluation"]
    tasks = {task["name"]: task | {"limit": 300} for task in evaluation["tasks"]}
    suite = EvaluateSpec(
        perplexity=evaluation["perplexity"] | {"limit": 64},
        window=512,
        batch_size=16,
        tasks=(tasks["arc_easy"], tasks["piqa"]),
    )
    result = compare(
        base,
        importance,
        suite,
        out,
        sizes=SIZES,
        criteria=CRITERIA,
        widths=("neurons", "width"),
        seeds=(0, 1),
    )
    print(result.table())


if __name__ == "__main__":
    main()
