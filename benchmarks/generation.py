"""Answers of the engine `transformers` against a plain padded `generate` loop: same prompts, same greedy settings.

    python -m benchmarks.generation [--prompts 64] [--runs 3]

SmolLM2-135M-Instruct rewrites SciQ answers by the template of the default run. The loop takes batches of 32 in the
order of the data, as most scripts do; the engine sorts by length and lets sequences go that have ended. Every
variant loads the model before the clock starts.
"""

import yaml

from benchmarks.criteria import DEMO, demo_model
from benchmarks.variants import options, run_variants, table
from regrow.records import read_records
from regrow.selfdata import load_template
from regrow.selfdata.engines.base import ChatPrompts
from regrow.source import DatasetSpec

_PLAIN = "plain padded generate loop"
_SETUP = """
import torch
from regrow.checkpoint import Checkpoint
from regrow.selfdata.engines import Sampling, TransformersEngine
base = Checkpoint.open(arguments["base"])
prompts, most = arguments["prompts"], arguments["max_new_tokens"]
"""
VARIANTS = {
    _PLAIN: _SETUP
    + """
tokenizer, model = base.tokenizer(), base.load()
tokenizer.padding_side = "left"
def work():
    count = 0
    for i in range(0, len(prompts), 32):
        batch = tokenizer(prompts[i : i + 32], padding=True, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**batch, max_new_tokens=most, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        count += int((out[:, batch.input_ids.shape[1] :] != tokenizer.pad_token_id).sum())
    return count
report(work)
""",
    "regrow, engine transformers": _SETUP
    + """
engine = TransformersEngine(base, batch_size=32)
report(lambda: sum(one.tokens for one in engine.generate(prompts, Sampling(max_new_tokens=most))))
""",
}


def main() -> None:
    """Measure every variant in turn and print a Markdown table."""
    given = options(__doc__, "prompts", int, 64, "records")
    parameters = yaml.safe_load(DEMO.read_text(encoding="utf-8"))["parameters"]
    base = demo_model(parameters)
    spec = DatasetSpec(**parameters["datasets"][0] | {"limit": given.prompts})
    template = load_template("auto", spec.family)
    chat = ChatPrompts(base)
    texts = [chat.render(template.messages(one), template.assistant) for one in read_records(spec)]
    arguments = {"base": str(base.folder), "prompts": texts, "max_new_tokens": 256}
    found = run_variants(VARIANTS, arguments, given.runs)
    print(table(f"{len(texts)} answers of up to 256 tokens, median of {given.runs}", found, _PLAIN))
    tokens = {name: sorted({one["answer"] for one in rounds}) for name, rounds in found.items()}
    print("\nanswer tokens: " + "; ".join(f"{name} {count}" for name, count in tokens.items()))


if __name__ == "__main__":
    main()
