"""Streamed pruning against the usual way: load with transformers, cut the module list, save.

    python -m benchmarks.prune [--gib 2] [--runs 3]

On a random sharded Llama checkpoint; `cp` of the kept bytes is the floor. regrow's time includes the SHA-256 of
the result, which names it; that of the source was taken when it was opened, and is in no variant. Nor are imports:
every variant has loaded transformers' Llama before the clock starts.
"""

import tempfile
from pathlib import Path

from benchmarks.variants import options, run_variants, table

BLOCKS, START, STOP = 24, 12, 18

_FLOOR = "cp of the kept bytes"
_IMPORTS = """
import accelerate, torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama import modeling_llama
"""
VARIANTS = {
    _FLOOR: """
base = Path(arguments["base"])
files = sorted(base.glob("*.safetensors"))
kept = int(sum(f.stat().st_size for f in files) * arguments["kept"])
def work():
    left = kept
    out.mkdir()
    with (out / "copy").open("wb") as target:
        for file in files:
            with file.open("rb") as source:
                while left > 0 and (chunk := source.read(min(16 << 20, left))):
                    target.write(chunk)
                    left -= len(chunk)
report(work)
""",
    "regrow.prune.apply": _IMPORTS
    + """
from regrow.checkpoint import Checkpoint
from regrow.prune import PruneSpec, apply, make_plan
checkpoint = Checkpoint.open(arguments["base"])
plan = make_plan(checkpoint, PruneSpec(drop=arguments["drop"]))
report(lambda: apply(checkpoint, plan, out).digest)
""",
    "regrow.prune.apply, also a quarter of the MLP neurons": _IMPORTS
    + """
from regrow.checkpoint import Checkpoint
from regrow.prune import KeptUnits, PruneSpec, apply, make_plan
checkpoint = Checkpoint.open(arguments["base"])
plan = make_plan(checkpoint, PruneSpec(drop=arguments["drop"]))
size = checkpoint.config["intermediate_size"]
kept = tuple(unit for unit in range(size) if unit % 4)
plan = plan.model_copy(update={"neurons": KeptUnits(of=size, kept=(kept,) * len(plan.blocks))})
report(lambda: apply(checkpoint, plan, out).digest)
""",
    "transformers load, cut, save": _IMPORTS
    + """
start, stop = arguments["start"], arguments["stop"]
def work():
    model = AutoModelForCausalLM.from_pretrained(arguments["base"], dtype=torch.bfloat16)
    layers = model.model.layers
    model.model.layers = torch.nn.ModuleList([b for i, b in enumerate(layers) if not start <= i < stop])
    for number, block in enumerate(model.model.layers):
        block.self_attn.layer_idx = number
    model.config.num_hidden_layers = len(model.model.layers)
    model.save_pretrained(out)
report(work)
""",
}


def make_checkpoint(folder: Path, gib: float) -> None:
    """Write a random bf16 Llama of about `gib` GiB in shards."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden = int((gib * 2**30 / 2 / BLOCKS / 16) ** 0.5) // 64 * 64 + 64
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=BLOCKS,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        dtype="bfloat16",
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model = model.to_empty(device="cpu").to(torch.bfloat16)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.02)
    model.save_pretrained(folder, max_shard_size="500MB")


def main() -> None:
    """Measure every variant in turn and print a Markdown table."""
    given = options(__doc__, "gib", float, 2.0, "size of the checkpoint in GiB")
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        make_checkpoint(base, given.gib)
        arguments = {
            "base": str(base),
            "start": START,
            "stop": STOP,
            "drop": f"{START}:{STOP}",
            "kept": 1 - (STOP - START) / BLOCKS,
        }
        found = run_variants(VARIANTS, arguments, given.runs)
    title = f"pruning {given.gib:g} GiB, {STOP - START} of {BLOCKS} blocks, median of {given.runs}"
    print(table(title, found, _FLOOR))


if __name__ == "__main__":
    main()
