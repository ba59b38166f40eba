"""The tables of docs/scale.md, and the figures that its assumptions rest on.

    python -m benchmarks.capacity tables [--device h100] [--config configs/llama-3.1-8b.yaml]
    python -m benchmarks.capacity measure
    python -m benchmarks.capacity profile > device.yaml

`tables` plans one configuration for Llama-3.1 8B, 70B and 405B: per stage the memory on GPUs, GPUs that hold it, host
memory, bytes moved, hours. `measure` runs a model of SmolLM2-135M's shape with random weights here and sets
times beside the formulas' for this machine. `profile` prints this machine as a device file for `regrow plan --device`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from math import ceil, log2
from pathlib import Path
from statistics import median

import torch
import yaml

from regrow import capacity
from regrow.capacity.device import Device
from regrow.capacity.model import sizes
from regrow.capacity.need import GIB
from regrow.capacity.paper import paper
from regrow.capacity.plan import Plan, Planned, least_devices
from regrow.capacity.shapes import known_shapes
from regrow.checkpoint import Checkpoint
from regrow.config import CompressConfig, read_config
from regrow.files import read_json
from regrow.prune.size import human
from regrow.selfdata import SelfDataSpec
from regrow.selfdata.engines import VllmSpec

SHAPES = ("Llama-3.1-8B", "Llama-3.1-70B", "Llama-3.1-405B")


def tables(path: Path, device: Device) -> None:
    """Print a table for each shape."""
    config, whole = read_config(path, CompressConfig)
    # One GPU is what this file asks for; here the question is what would be needed.
    whole = {key: value for key, value in whole.items() if key != "steps"}
    for shape in SHAPES:
        # The paper's cut, as a share of the depth.
        blocks = round(6 / 32 * int(known_shapes()[shape]["num_hidden_layers"]))
        cut = config.prune.model_copy(update={"blocks": blocks})
        with tempfile.TemporaryDirectory() as scratch:
            weights = paper(known_shapes()[shape], shape, Path(scratch)).nbytes
            changed = config.model_copy(
                update={"prune": cut, "self_data": _spread(config.self_data, weights, device)}
            )
            plan = capacity.make(changed, whole, device, Path(scratch), model=shape)
            _print(plan, blocks)


def _spread(spec: SelfDataSpec, weights: int, device: Device) -> SelfDataSpec:
    """Where one device does not hold the model, let vLLM generate, on as many as keep 0.4 of their memory free."""
    if weights < 0.6 * device.memory:
        return spec
    count = 2 ** ceil(log2(weights / (0.6 * device.memory)))
    return spec.model_copy(update={"engine": "vllm", "vllm": VllmSpec(tensor_parallel_size=count)})


def _print(plan: Plan, blocks: int) -> None:
    print(
        f"\n{plan.model}: {human(plan.parameters)} parameters, {blocks} blocks removed, {plan.device.name}\n"
    )
    print("| stage | device GiB | GPUs of 80 GiB | host GiB | disk GiB | moved GB | hours | moving |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    seen = set()
    for one in plan.steps:
        if one.step.stage in seen or one.step.name in ("evaluate_pruned",):
            continue
        seen.add(one.step.stage)
        print(_row(one))
    print(
        f"\nall {len(plan.steps)} steps: {plan.device_hours:.1f} GPU hours, {plan.moved / 1e9:.0f} GB moved "
        f"({plan.moved_once / 1e9:.0f} GB with one node's cache), longest chain {plan.longest_way / 3600:.1f} h"
    )


def _row(one: Planned) -> str:
    need = one.need
    least = least_devices(need, one.device)
    alone = least > 1 and not need.spreads
    cells = (
        one.step.stage,
        f"{need.device_bytes / GIB:.0f}" if need.gpus else "-",
        f"{least}{' (one only)' if alone else ''}" if need.gpus else "-",
        f"{need.host_bytes(one.device) / GIB:.1f}",
        f"{need.disk_bytes / GIB:.0f}",
        f"{need.moved / 1e9:.0f}",
        "-" if alone else f"{one.seconds / 3600:.2f}",
        "-" if alone else f"{(one.need.moving(one.device) + one.device.start) / 3600:.2f}",
    )
    return "| " + " | ".join(cells) + " |"


def measure() -> None:
    """Print measured seconds beside the formulas'."""
    from tests.tiny import tiny_checkpoint

    torch.set_num_threads(1)
    here = _this_core()
    shape = known_shapes()["SmolLM2-135M"]
    print(
        f"{here.flops / 1e9:.0f} GFLOP/s, {here.bandwidth / 1e9:.1f} GB/s measured; one thread, its CPU time\n"
    )
    print("| what | estimated s | measured s | ratio |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        own = ("model_type", "dtype", "vocab_size")
        settings = {key: value for key, value in shape.items() if key not in own}
        made = tiny_checkpoint(Path(scratch) / "model", dtype=torch.bfloat16, vocab_size=49_152, **settings)
        model = sizes(paper(read_json(made.folder / "config.json"), "model", Path(scratch)), here)
        loaded = made.load()
        for rows, length in ((1, 512), (4, 512), (8, 512), (8, 256)):
            taken = _median(partial(_forward, loaded, rows, length))
            thought = model.reads(rows * length, length, rows * length).seconds(here)
            _told(f"forward, {rows} x {length} tokens", thought, taken)
        for rows in (1, 8, 32):
            taken = _decoded(loaded, rows, 64, 32)
            thought = model.writes(rows, 32, 64, rows, compiled=False).seconds(here)
            _told(f"decode, {rows} rows, 32 tokens after 64", thought, taken)
        _files(made, here, Path(scratch))


def _this_core() -> Device:
    """This machine's profile with the rates of one thread, in its own CPU time: other processes have no say."""
    here = capacity.device("cpu")
    dtype = torch.bfloat16 if here.halves else torch.float32
    a, b = torch.randn(1024, 1024).to(dtype), torch.ones(2**24)
    return here.model_copy(
        update={
            "flops": 2 * 1024**3 / _median(lambda: a @ a),
            "bandwidth": 4 * 2**24 / _median(lambda: b.sum()),
        }
    )


def _forward(model: torch.nn.Module, rows: int, length: int) -> None:
    with torch.inference_mode():
        model(torch.ones(rows, length, dtype=torch.long), use_cache=False)


def _decoded(model: torch.nn.Module, rows: int, prompt: int, tokens: int) -> float:
    """Seconds of the decoding steps alone."""
    with torch.inference_mode():
        ids = torch.ones(rows, prompt, dtype=torch.long)
        seen = model(ids, use_cache=True, logits_to_keep=1)
        begun = time.process_time()
        for _ in range(tokens):
            seen = model(seen.logits[:, -1:].argmax(-1), past_key_values=seen.past_key_values, use_cache=True)
        return time.process_time() - begun


def _files(base: Checkpoint, here: Device, scratch: Path) -> None:
    from regrow.merge import MergeSpec, merge
    from regrow.prune import PruneSpec, apply, make_plan

    plan = make_plan(base, PruneSpec(drop="13:19"))
    one = apply(base, plan, scratch / "one")
    stored = sum(file.stat().st_size for file in one.folder.glob("*.safetensors"))
    _told(
        "prune, bytes at the disk's assumed rate",
        2 * stored / here.disk,
        _timed(lambda: apply(base, plan, scratch / "two")),
    )
    two = Checkpoint.open(scratch / "two")
    taken = _timed(lambda: merge([one, two], MergeSpec(), scratch / "merged"))
    _told("merge, weights at the assumed rate", one.parameters / here.merge, taken)


def _timed(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def _median(work: Callable[[], object]) -> float:
    work()
    return median(_timed(work) for _ in range(5))


def _told(what: str, thought: float, taken: float) -> None:
    print(f"| {what} | {thought:.2f} | {taken:.2f} | {thought / taken:.2f} |", flush=True)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("tables", "measure", "profile"))
    parser.add_argument("--device", default="h100")
    parser.add_argument("--config", type=Path, default=Path("configs/llama-3.1-8b.yaml"))
    asked = parser.parse_args()
    if asked.what == "tables":
        tables(asked.config, capacity.device(asked.device))
    elif asked.what == "measure":
        measure()
    else:
        print(yaml.safe_dump(capacity.device("cpu").model_dump(), sort_keys=False), end="")


if __name__ == "__main__":
    main()
