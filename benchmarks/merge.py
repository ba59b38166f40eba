"""SLERP of two models by regrow and by mergekit: the commands that a user types, each a process of its own.

    python -m benchmarks.merge [--sizes 135M,1B,3B] [--runs 3] [--first]

135M is SmolLM2-135M-Instruct in float32 and a sibling, made by seeded noise; 1B and 3B are random models in bfloat16
of the shapes of Llama 3.2. Seconds are of the whole process: imports, digests of both models (regrow), the merge.
Peak memory is the process's own, all of it. Two floors: `write` copies the result's bytes from one model, and `digests`
hashes what `regrow merge` does to say where its result comes from: both models, and the result as a file and by tensor.
With --first (as root) each run is like the first on a machine, in a new pod for example: nothing is in the page cache,
and Python has no compiled modules.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.variants import run_variants, table

# hidden size, intermediate size, blocks, heads, KV heads
SHAPES = {"1B": (2048, 8192, 16, 32, 8), "3B": (3072, 8192, 28, 24, 8)}
VOCABULARY = 128_256

_COMMAND = """
import subprocess
def run(*command):
    environment = dict(os.environ)
    if arguments["first"]:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        environment["PYTHONPYCACHEPREFIX"] = str(out.parent / "compiled")
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert not status, error.decode()[-2000:]
    return {"seconds": time.perf_counter() - start, "peak_mib": usage.ru_maxrss / 1024}
"""
VARIANTS = {
    "mergekit-yaml": _COMMAND
    + """
report(lambda: run(str(Path(sys.executable).parent / "mergekit-yaml"), arguments["yaml"], str(out), "--quiet"))
""",
    "regrow merge": _COMMAND
    + """
report(lambda: run(str(Path(sys.executable).parent / "regrow"), "merge", *arguments["models"], "--out", str(out)))
""",
    "write": """
import shutil
report(lambda: bool(shutil.copytree(arguments["models"][0], out)))
""",
    "digests": """
from concurrent.futures import ThreadPoolExecutor
from hashlib import file_digest
def digest(model):
    for file in sorted(Path(model).glob("*.safetensors")):
        with file.open("rb") as stream:
            file_digest(stream, "sha256")
def digests():
    models = arguments["models"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(digest, [*models, models[0], models[0]]))
report(digests)
""",
}


def make_pair(size: str, folder: Path) -> list[Path]:
    """Write two models that can be merged."""
    return (
        _smollm2(folder) if size == "135M" else [_random(size, folder / str(seed), seed) for seed in range(2)]
    )


def _smollm2(folder: Path) -> list[Path]:
    from regrow.checkpoint import copy_small_files
    from regrow.tensors import ShardWriter, load
    from tests.real_models import smollm2

    parent = smollm2(folder / "a", "float32")
    index = parent.tensors()
    source = np.random.default_rng(0)
    (folder / "b").mkdir()
    copy_small_files(parent.folder, folder / "b")
    with ShardWriter(
        folder / "b", {name: (info.dtype, info.shape) for name, info in index.items()}
    ) as writer:
        for name, info in index.items():
            weight = load(info, name).numpy()
            moved = weight + np.float32(0.1 * weight.std()) * source.standard_normal(info.shape, np.float32)
            writer.put_pieces(name, [memoryview(moved.reshape(-1))])
    return [folder / "a", folder / "b"]


def _random(size: str, folder: Path, seed: int) -> Path:
    from regrow.files import write_json
    from regrow.merge.stream import encode
    from regrow.tensors import ShardWriter

    hidden, inner, blocks, heads, groups = SHAPES[size]
    width = hidden // heads
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "head_dim": width,
        "intermediate_size": inner, "num_hidden_layers": blocks, "num_attention_heads": heads,
        "num_key_value_heads": groups, "vocab_size": VOCABULARY, "tie_word_embeddings": True, "dtype": "bfloat16",
    }  # fmt: skip
    write_json(folder / "config.json", config)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, hidden)}
    for block in range(blocks):
        inside = {
            "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (groups * width, hidden),
            "self_attn.v_proj": (groups * width, hidden), "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner),
            "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
        }  # fmt: skip
        shapes |= {f"model.layers.{block}.{name}.weight": shape for name, shape in inside.items()}
    shapes["model.norm.weight"] = (hidden,)
    source = np.random.Generator(np.random.SFC64(seed))
    with ShardWriter(folder, {name: ("BF16", shape) for name, shape in shapes.items()}) as writer:
        for name, shape in shapes.items():
            values = np.float32(0.02) * source.standard_normal(shape, np.float32)
            writer.put_pieces(name, [memoryview(encode(values.reshape(-1), "BF16"))])
    return folder


def main() -> None:
    """Measure both commands in turn, and print a Markdown table for each size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="135M,1B", help="of 135M, 1B, 3B (default: 135M,1B)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each variant (default: 3)")
    parser.add_argument("--first", action="store_true", help="as on a machine that has not run it yet (root)")
    given = parser.parse_args()
    for size in given.sizes.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            models = [str(folder) for folder in make_pair(size, Path(scratch))]
            config = {
                "merge_method": "slerp", "base_model": models[0], "parameters": {"t": 0.5},
                "models": [{"model": model} for model in models],
            }  # fmt: skip
            file = Path(scratch) / "mergekit.yml"
            file.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
            arguments = {"models": models, "yaml": str(file), "first": given.first}
            commands = {name: code for name, code in VARIANTS.items() if _COMMAND in code}
            found = run_variants(commands if given.first else VARIANTS, arguments, given.runs)
            nbytes = sum(one.stat().st_size for one in Path(models[0]).glob("*.safetensors"))
            kind = "float32" if size == "135M" else "bfloat16"
            first = "first use, " if given.first else ""
            title = f"SLERP of two {size} models, {first}{kind}, {nbytes / 1e9:.2f} GB each, median of {given.runs}"
            print(table(title, found, "mergekit-yaml"), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
