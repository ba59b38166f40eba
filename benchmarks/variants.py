"""Run variants of one job in turn, each in a process of its own, and print their time and memory as ratios.

A variant is Python source that calls `report(work)`. Peak memory is the growth of the process's high-water
mark during the work (Linux only): what was imported and opened before does not count.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

_SETUP = """
import json, os, sys, time
from pathlib import Path
os.environ["TQDM_DISABLE"] = "1"
arguments, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
def high_water():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
def report(work):
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark of the imports
    before = high_water()
    start = time.perf_counter()
    answer = work()
    seconds = time.perf_counter() - start
    peak = (high_water() - before) / 1024
    if isinstance(answer, dict):  # work that measures itself
        seconds, peak = answer.pop("seconds", seconds), answer.pop("peak_mib", peak)
    found = {"seconds": seconds, "peak_mib": peak, "answer": answer}
    Path(sys.argv[3]).write_text(json.dumps(found))  # not to standard output, where libraries write, too
"""


def options(
    doc: str | None,
    size: str,
    kind: type[int] | type[float],
    default: float,
    what: str,
    *,
    seed: bool = False,
) -> argparse.Namespace:
    """Read a benchmark's command line: how large the job is, and how often it is run.

    Args:
        doc: the benchmark's own description.
        size: name of the option for the size.
        kind: int or float.
        default: the size if none is given.
        what: what the size counts.
        seed: whether the job has a seed to choose.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(f"--{size}", type=kind, default=default, help=f"{what} (default: {default})")
    parser.add_argument("--runs", type=int, default=3, help="runs of each variant (default: 3)")
    if seed:
        parser.add_argument("--seed", type=int, default=0, help="of adapter and order (default: 0)")
    return parser.parse_args()


def run_variants(
    variants: Mapping[str, str],
    arguments: Mapping[str, object],
    runs: int,
    pythons: Mapping[str, Path] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Run every variant `runs` times, in turn so that noise falls on all alike.

    Args:
        variants: Python source by name; it sees `arguments` and a path `out` that does not exist yet.
        arguments: what the source needs, as JSON.
        runs: rounds.
        pythons: the Python of those variants that need another environment than this one.

    Returns:
        By name, for each round: seconds, peak_mib and what the work returned as answer.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    for _ in range(runs):
        for name, code in variants.items():
            with tempfile.TemporaryDirectory() as scratch:
                out = Path(scratch) / "out"
                python = (pythons or {}).get(name, sys.executable)
                file = Path(scratch) / "arguments.json"
                file.write_text(json.dumps(arguments), encoding="utf-8")
                result = Path(scratch) / "result.json"
                command = [python, "-c", _SETUP + code, file, out, result]
                environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
                # Users have compiled modules; without them, libraries with many would be timed by their imports.
                environment.pop("PYTHONDONTWRITEBYTECODE", None)
                done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
                if done.returncode:
                    sys.exit(f"{name} failed:\n{done.stderr[-2000:]}")
                found[name].append(json.loads(result.read_text(encoding="utf-8")))
                sys.stderr.write(f"{name}: {found[name][-1]['seconds']:.2f} s\n")
                shutil.rmtree(out, ignore_errors=True)
    return found


def table(title: str, found: Mapping[str, list[dict[str, Any]]], reference: str) -> str:
    """Lay out medians as a Markdown table; `reference` is the variant that ratios are taken to."""
    floor = median(one["seconds"] for one in found[reference])
    lines = [f"| {title} | seconds | ratio | peak MiB |", "| --- | --- | --- | --- |"]
    for name, rounds in found.items():
        seconds = median(one["seconds"] for one in rounds)
        peak = median(one["peak_mib"] for one in rounds)
        lines.append(f"| {name} | {seconds:.2f} | {seconds / floor:.2f} | {peak:.0f} |")
    return "\n".join(lines)
