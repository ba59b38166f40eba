"""The estimate of a tuning run's memory and time against what the run then takes.

    python -m benchmarks.estimate

SmolLM2-135M-Instruct, two steps of one forward pass each, by the training process that `regrow tune` starts; examples
of random tokens. Time is what two steps take, which says little: the first one warms up.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.criteria import DEMO, demo_model
from regrow.files import read_json
from regrow.parsing import parse
from regrow.tune import Launch, Recipe
from regrow.tune.data import Examples
from regrow.tune.follow import run
from regrow.tune.prepare import prepare

MIXED = (128, 192, 256, 320, 384, 448, 512, 512)


@dataclass(frozen=True)
class Case:
    """A recipe, and the tokens of the examples of a forward pass."""

    lengths: tuple[int, ...]
    recipe: dict[str, Any] = field(default_factory=dict)


CASES = {
    "LoRA, 1 x 256 tokens": Case((256,)),
    "LoRA, 4 x 256": Case((256,) * 4),
    "LoRA, 4 x 256, float32": Case((256,) * 4, {"dtype": "float32"}),
    "LoRA, 8 x 128 to 512, padded": Case(MIXED),
    "LoRA, the same, packed": Case(MIXED, {"packing": True}),
    "LoRA, 8 x 512, gradient checkpointing": Case((512,) * 8, {"gradient_checkpointing": True}),
    "head and last 3 blocks, 4 x 256": Case((256,) * 4, {"trainable": {"kind": "head_and_last_k"}}),
    "full, 4 x 256": Case((256,) * 4, {"trainable": {"kind": "full"}}),
    "distillation beside the teacher, 4 x 256": Case((256,) * 4, {"method": "distill"}),
}


def main() -> None:
    """Run every case and print the table."""
    model = demo_model(yaml.safe_load(DEMO.read_text(encoding="utf-8"))["parameters"])
    draw = torch.Generator().manual_seed(0)
    print("| run | estimated MiB | measured MiB | ratio | estimated s | measured s |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, case in CASES.items():
        tokens = [torch.randint(10, 40_000, (length,), generator=draw).tolist() for length in case.lengths]
        count = len(tokens)
        examples = Examples(tokens=tokens, prompts=[32] * count, rows=list(range(1, count + 1)))
        recipe: Any = parse(Recipe, {"batch_size": count, "max_steps": 2} | case.recipe, name)
        with tempfile.TemporaryDirectory() as work:
            job = prepare(model, model, examples, recipe, Path(work), Launch())
            run(job, Launch())
            result, expected = (read_json(job.folder / f"{part}.json") for part in ("result", "estimate"))
        used = result["gpu_peak_bytes"] or result["peak_bytes"]
        thought = sum(expected["parts"].values())
        print(
            f"| {name} | {thought / 2**20:.0f} | {used / 2**20:.0f} | {thought / used:.2f} | "
            f"{expected['seconds']:.1f} | {result['seconds']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
