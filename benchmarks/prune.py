"""Streamed pruning against the usual way: load with transformers, cut the module list, save.

    python -m benchmarks.prune [--gib 1] [--runs 3]

Every variant runs in a process of its own, in turn, on the same random Llama checkpoint; `cp` of the kept
bytes is the floor. Peak memory is the growth of the process's high-water mark during the work (Linux only).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

BLOCKS, DROPPED = 24, 6

_SETUP = """
import json, sys, time
from pathlib import Path
base, out = Path(sys.argv[1]), Path(sys.argv[2])
def high_water():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
def report(work):
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark of the imports
    before = high_water()
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_mib": (high_water() - before) / 1024}))
"""

VARIANTS = {
    "cp of the kept bytes": """
files = sorted(base.glob("*.safetensors"))
kept = int(sum(f.stat().st_size for f in files) * (1 - float(sys.argv[3])))
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
    "regrow.prune.apply": """
import logging, os
os.environ["TQDM_DISABLE"] = "1"
from transformers import AutoConfig
from regrow.checkpoint import Checkpoint
from regrow.prune import PrunePlan, apply
checkpoint = Checkpoint.open(base)
plan = PrunePlan(source_digest=checkpoint.digest, depth=24, start=12, stop=18, criterion="given")
report(lambda: apply(checkpoint, plan, out))
""",
    "transformers load, cut, save": """
import torch
from transformers import AutoModelForCausalLM
def work():
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    layers = model.model.layers
    model.model.layers = torch.nn.ModuleList([b for i, b in enumerate(layers) if not 12 <= i < 18])
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

    hidden = int((gib * 2**30 / 2 / BLOCKS / 16) ** 0.5) // 64 * 64
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=1.0, help="size of the checkpoint (default: 1)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each variant (default: 3)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "base"
        make_checkpoint(base, arguments.gib)
        found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
        for run in range(arguments.runs):
            for number, (name, code) in enumerate(VARIANTS.items()):
                out = Path(scratch) / f"out-{run}-{number}"
                command = [sys.executable, "-c", _SETUP + code, str(base), str(out), str(DROPPED / BLOCKS)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[name].append(json.loads(done.stdout.splitlines()[-1]))
                subprocess.run(["rm", "-rf", str(out)], check=True)
    floor = median(one["seconds"] for one in found["cp of the kept bytes"])
    size = f"{arguments.gib:g} GiB, {DROPPED} of {BLOCKS} blocks removed, median of {arguments.runs}"
    print(f"| pruning {size} | seconds | over cp | peak MiB |\n| --- | --- | --- | --- |")
    for name, runs in found.items():
        seconds = median(one["seconds"] for one in runs)
        peak = median(one["peak_mib"] for one in runs)
        print(f"| {name} | {seconds:.2f} | {seconds / floor:.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
