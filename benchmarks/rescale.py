"""What rescaling the norms is worth when channels are removed: perplexity of SmolLM2-135M-Instruct, with and without.

    python -m benchmarks.rescale

Model, calibration texts and held-out passages are those of configs/demo.yaml. Nothing is tuned.
"""

import tempfile
from pathlib import Path

import torch
import yaml

from benchmarks.criteria import DEMO, demo_model
from regrow.evaluate import perplexity
from regrow.importance import ImportanceSpec, compute
from regrow.prune import PruneSpec, apply, make_plan
from regrow.source import TextSpec, read_texts

CHANNELS = (558, 504, 432)


def main() -> None:
    """Prune, measure, take the factor out of the norms, measure again, and print a Markdown table."""
    parameters = yaml.safe_load(DEMO.read_text(encoding="utf-8"))["parameters"]
    base = demo_model(parameters)
    texts = read_texts(TextSpec(**parameters["evaluation"]["perplexity"] | {"limit": 16}))
    importance = compute(
        base, read_texts(TextSpec(**parameters["calibration"])), ImportanceSpec(max_tokens=128)
    )
    whole = int(base.config["hidden_size"])
    print(f"| channels of {whole} | norms rescaled | norms as they were |\n| --- | --- | --- |")
    for channels in CHANNELS:
        with tempfile.TemporaryDirectory() as scratch:
            plan = make_plan(base, PruneSpec(channels=channels), importance)
            pruned = apply(base, plan, Path(scratch) / "pruned")
            model, tokenizer = pruned.load(), pruned.tokenizer()
        rescaled = perplexity(model, tokenizer, texts).value
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith("norm.weight"):
                    weight *= (channels / whole) ** 0.5
        print(f"| {channels} | {rescaled:.1f} | {perplexity(model, tokenizer, texts).value:.1f} |")


if __name__ == "__main__":
    main()
