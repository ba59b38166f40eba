"""The digest of a checkpoint beside `sha256sum` on the same bytes in parallel, and what an audit takes besides.

    python -m benchmarks.digest [--gib 2] [--shards 4] [--runs 5] [--audit FOLDER]

The files lie in the page cache for all. `sha256sum` runs once for each file, as many at one time as there are cores
(`xargs -P`), and so does `openssl dgst -sha256`, which uses the processor's instructions for SHA where sha256sum does
not. An audit's seconds are its own account: hashing, and all the rest.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def make(folder: Path, gib: float, shards: int) -> None:
    """Write random tensors of so many bytes."""
    from regrow.files import write_json
    from regrow.tensors import ShardWriter

    rows = 32
    width = int(gib * 2**30 / rows / 2)
    layout = {f"t{i}": ("BF16", (width,)) for i in range(rows)}
    source = np.random.Generator(np.random.SFC64(0))
    with ShardWriter(folder, layout, max_shard_bytes=int(gib * 2**30 / shards) + 2) as writer:
        for name in layout:
            writer.put_pieces(name, [memoryview(source.bytes(2 * width))])
    write_json(folder / "config.json", {"model_type": "llama", "num_hidden_layers": 1})


def timed(command: list[str]) -> float:
    """Return the seconds that a command takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def in_process(folder: Path) -> float:
    """Return the seconds of the digest alone, without starting Python."""
    code = (
        "import sys, time; from regrow.checkpoint import digest_of; from pathlib import Path; "
        "start = time.perf_counter(); digest_of(Path(sys.argv[1])); print(time.perf_counter() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def main() -> None:
    """Measure both in turn, and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=2.0)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--audit", type=Path, metavar="FOLDER", help="a checkpoint with its statements")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make(folder, given.gib, given.shards)
        cores = len(os.sched_getaffinity(0))
        parallel = f"find {folder} -type f -print0 | xargs -0 -n 1 -P {cores}"
        found: dict[str, list[float]] = {
            "sha256sum": [],
            "openssl dgst -sha256": [],
            "regrow digest": [],
            "regrow digest, without its start": [],
        }
        for run in range(given.runs + 1):
            seconds = {
                "sha256sum": timed(["bash", "-c", f"{parallel} sha256sum"]),
                "openssl dgst -sha256": timed(["bash", "-c", f"{parallel} openssl dgst -sha256"]),
                "regrow digest": timed([str(Path(sys.executable).parent / "regrow"), "digest", str(folder)]),
                "regrow digest, without its start": in_process(folder),
            }
            if run:  # the first one warms the page cache
                for name, value in seconds.items():
                    found[name].append(value)
    plain = statistics.median(found["sha256sum"])
    print(
        f"| {given.gib:g} GiB in {given.shards} files, {cores} cores, median of {given.runs} | seconds | ratio |"
    )
    print("| --- | --- | --- |")
    for name, values in found.items():
        print(f"| {name} | {statistics.median(values):.2f} | {statistics.median(values) / plain:.2f} |")
    if given.audit:
        command = [str(Path(sys.executable).parent / "regrow"), "audit", str(given.audit), "--json"]
        rows = []
        for _ in range(given.runs):
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            whole, result = time.perf_counter() - start, json.loads(done.stdout)
            rows.append((whole, result["seconds"]["hashing"], len(result["chain"]), result["verified"]))
        whole, hashing = (statistics.median(column) for column in list(zip(*rows, strict=True))[:2])
        print(
            f"\naudit of {rows[0][2]} statements, verified: {rows[0][3]}; whole command {whole:.2f} s, of which "
            f"hashing {hashing:.2f} s, all the rest {whole - hashing:.2f} s"
        )


if __name__ == "__main__":
    main()
