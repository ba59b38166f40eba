"""Angular distance of every run of blocks in one pass, against what a user would write.

    python -m benchmarks.importance [--texts 32] [--runs 3]

SmolLM2-135M-Instruct on the calibration texts of configs/demo.yaml. The plain loop asks transformers for all
hidden states (and gets the last one after the final norm: its distances to the end of the model are others); one
pass per size is how published scripts do it, for the ten sizes 1 to 10. Every variant loads the model once while
the clock runs; imports are done before it starts.
"""

import yaml

from benchmarks.criteria import DEMO, demo_model
from benchmarks.variants import options, run_variants, table
from regrow.source import TextSpec, read_texts

_PLAIN = "plain output_hidden_states loop, all sizes"
_SETUP = """
import torch
from transformers import AutoModelForCausalLM
from transformers.models.llama import modeling_llama
from regrow.checkpoint import Checkpoint
base = Checkpoint.open(arguments["base"])
tokenizer = base.tokenizer()
"""
_REGROW = """
import accelerate
from regrow.importance import ImportanceSpec, compute
spec = ImportanceSpec(max_tokens=256, placement="{placement}", width={everything}, all_tokens={everything})
report(lambda: compute(base, arguments["texts"], spec).best(6)[0])
"""
_LOOP = """
tokenizer.padding_side = "right"
texts = sorted(arguments["texts"], key=len, reverse=True)
def distances(model, sizes):
    total = torch.zeros(base.blocks + 1, base.blocks + 1, dtype=torch.float64)
    for i in range(0, len(texts), 8):
        batch = tokenizer(texts[i : i + 8], truncation=True, max_length=256, padding=True, return_tensors="pt")
        with torch.inference_mode():
            states = model(**batch, output_hidden_states=True, use_cache=False).hidden_states
        last = batch.attention_mask.sum(1) - 1
        last = [state[torch.arange(len(last)), last].float() for state in states]
        for size in sizes:
            for start in range(base.blocks - size + 1):
                cosine = torch.nn.functional.cosine_similarity(last[start], last[start + size], dim=-1)
                total[start, start + size] += (torch.arccos(cosine.clamp(-1, 1)) / torch.pi).sum()
    return total / len(texts)
def best(matrix, size):
    return min(range(base.blocks - size + 1), key=lambda start: float(matrix[start, start + size]))
"""
VARIANTS = {
    _PLAIN: _SETUP + _LOOP + "report(lambda: best(distances(base.load(), range(1, base.blocks)), 6))",
    "one pass per size, 10 sizes": _SETUP
    + _LOOP
    + """
def work():
    model = base.load()
    return [best(distances(model, [size]), size) for size in range(1, 11)][5]
report(work)
""",
    "regrow, all sizes": _SETUP + _REGROW.format(placement="whole", everything=False),
    "regrow, all sizes, all tokens, and width": _SETUP + _REGROW.format(placement="whole", everything=True),
    "regrow, all sizes, one block at a time": _SETUP + _REGROW.format(placement="blocks", everything=False),
}


def main() -> None:
    """Measure every variant in turn and print a Markdown table."""
    given = options(__doc__, "texts", int, 32, "calibration texts")
    parameters = yaml.safe_load(DEMO.read_text(encoding="utf-8"))["parameters"]
    texts = read_texts(TextSpec(**parameters["calibration"] | {"limit": given.texts}))
    arguments = {"base": str(demo_model(parameters).folder), "texts": texts}
    found = run_variants(VARIANTS, arguments, given.runs)
    answers = {str(one["answer"]) for rounds in found.values() for one in rounds}
    print(table(f"{len(texts)} texts of up to 256 tokens, median of {given.runs}", found, _PLAIN))
    print(f"\nbest start for 6 blocks: {', '.join(sorted(answers))}")


if __name__ == "__main__":
    main()
