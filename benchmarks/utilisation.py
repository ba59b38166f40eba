"""Model FLOPs utilisation of tuning on a GPU: an 8B-shaped model with random weights, LoRA and full.

    python -m benchmarks.utilisation [--shape llama-3.1-8b] [--length 2048] [--batch 4] [--steps 6]

Utilisation is the floating-point operations of forward and backward pass (2 a weight and token forward; 2 backward for
the states, 2 more for weights that train; attention's own; the head at every position) over what the device multiplies
in bfloat16, which is measured here by a large product. The shape `tiny` is for trying the script on a CPU.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from regrow.checkpoint import Checkpoint
from regrow.device import device
from regrow.tune import Launch, worker
from regrow.tune.data import Examples
from regrow.tune.prepare import prepare
from regrow.tune.recipe import Full, Lora, Sft
from tests.tiny import tiny_tokenizer

SHAPES = {
    "llama-3.1-8b": {
        "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    "tiny": {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
}  # fmt: skip


def random_model(shape: str, folder: Path) -> Checkpoint:
    """Write a model of this shape with random weights in bfloat16."""
    config = LlamaConfig(**SHAPES[shape], max_position_embeddings=8192, tie_word_embeddings=False)
    with torch.device(device()):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return Checkpoint.open(folder)


def peak(where: str) -> float:
    """Operations a second in a large bfloat16 product."""
    size = 8192 if where == "cuda" else 1024
    a = torch.randn(size, size, device=where, dtype=torch.bfloat16)
    for _ in range(2):  # the first one warms up
        begun = time.perf_counter()
        for _ in range(10):
            a @ a
        if where == "cuda":
            torch.cuda.synchronize()
        rate = 10 * 2 * size**3 / (time.perf_counter() - begun)
    return rate


def operations(shape: str, length: int, *, full: bool) -> float:
    """Operations of one token's forward and backward pass."""
    one = SHAPES[shape]
    width, head = one["hidden_size"], one["hidden_size"] // one["num_attention_heads"]
    block = (
        2 * width * width
        + 2 * width * one["num_key_value_heads"] * head
        + 3 * width * one["intermediate_size"]
    )
    linear = one["num_hidden_layers"] * block + width * one["vocab_size"]
    attention = one["num_hidden_layers"] * 2 * length * width / 2  # causal: half of the pairs
    return linear * (6 if full else 4) + attention * 6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="llama-3.1-8b")
    parser.add_argument("--length", type=int, default=2048, help="tokens of an example (default: 2048)")
    parser.add_argument("--batch", type=int, default=4, help="examples in a step (default: 4)")
    parser.add_argument("--steps", type=int, default=6, help="steps; the first two do not count (default: 6)")
    asked = parser.parse_args()
    where = device()
    best = peak(where)
    print(f"device {where}, {best / 1e12:.2f} TFLOP/s in bfloat16\n")
    print("| trained | tokens/s | model FLOP utilisation | peak GiB |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        model = random_model(asked.shape, Path(scratch) / "model")
        ids = torch.randint(300, SHAPES[asked.shape]["vocab_size"], (16, asked.length)).tolist()
        examples = Examples(tokens=ids, prompts=[0] * 16, rows=list(range(1, 17)))
        for name, trainable in (("LoRA r 16", Lora()), ("full", Full())):
            recipe = Sft(
                trainable=trainable, max_steps=asked.steps, batch_size=asked.batch, max_length=asked.length,
                packing=True, gradient_checkpointing=name == "full", save_every=10**6,
            )  # fmt: skip
            job = prepare(model, None, examples, recipe, Path(scratch), Launch(processes=1))
            try:
                worker.train(job)
            except (
                Exception
            ) as error:  # the measure is in the log before the merge, which needs memory of its own
                print(f"({name}: {error})")
            log = [json.loads(line) for line in (job.folder / "log.jsonl").read_text().splitlines()]
            rate = (log[-1]["tokens"] - log[1]["tokens"]) / (log[-1]["seconds"] - log[1]["seconds"])
            used = rate * operations(asked.shape, asked.length, full=name == "full") / best
            print(
                f"| {name} | {rate:.0f} | {used:.1%} | {max(one['memory_bytes'] for one in log) / 2**30:.1f} |"
            )


if __name__ == "__main__":
    main()
