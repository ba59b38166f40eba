"""What a device can do, and how much of it is assumed to be reached.

Peak figures of GPUs are their makers' (dense bfloat16, no sparsity). Utilisations, the seconds of a decoding step,
network and disk are assumptions of this project, written here so that a file can replace them; none of the GPU's was
measured, for want of one. `python -m benchmarks.capacity profile` measures the machine it runs on.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from regrow.errors import InputError

_GB = 10**9


class Device(BaseModel):
    """One device with its share of the node."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="name in tables")
    kind: str = Field("cuda", pattern="^(cuda|cpu)$", description="cuda: memory of its own; cpu: the host's")
    memory: int = Field(gt=0, description="bytes of memory")
    halves: bool = Field(True, description="whether it multiplies in 16-bit types; else models are float32")
    flops: float = Field(gt=0, description="peak operations a second in the type that is computed in")
    bandwidth: float = Field(gt=0, description="peak bytes a second from memory")
    forward: float = Field(
        0.4, gt=0, le=1, description="share of the peak in forward passes over many tokens"
    )
    train: float = Field(0.35, gt=0, le=1, description="share of the peak in training steps")
    stream: float = Field(0.6, gt=0, le=1, description="share of the bandwidth while tokens are decoded")
    step: float = Field(
        7e-4,
        ge=0,
        description="seconds that a block takes at least in a decoding step of transformers, which starts every "
        "kernel from Python",
    )
    step_compiled: float = Field(5e-5, ge=0, description="the same of vLLM, with CUDA graphs")
    network: float = Field(1.0 * _GB, gt=0, description="bytes a second between artifact store and node")
    disk: float = Field(1.0 * _GB, gt=0, description="bytes a second from and to the node's disk")
    merge: float = Field(
        1.3e8, gt=0, description="weights a second that merging two models by SLERP writes, on the node's CPU"
    )
    start: float = Field(
        60.0, ge=0, description="seconds from a pod's creation to its first line, image cached"
    )


DEVICES = {
    "h100": Device(name="h100", memory=80 * 2**30, flops=989e12, bandwidth=3.35e12),
    "a100": Device(name="a100", memory=80 * 2**30, flops=312e12, bandwidth=2.039e12),
}


def this_machine() -> Device:
    """Return this machine's CPU: its speed is measured now, in half a second, as `regrow.tune.estimate` does it.

    The shares that are reached, and a block's step, were measured with SmolLM2-135M on two cores (docs/scale.md).
    """
    import psutil
    import torch

    from regrow.device import compute_dtype
    from regrow.tune.estimate import probed_speed

    halves = compute_dtype(torch.bfloat16, "cpu") == torch.bfloat16
    flops, bandwidth = probed_speed("bfloat16" if halves else "float32", "cpu")
    return Device(
        name="cpu", kind="cpu", memory=psutil.virtual_memory().total, halves=halves, flops=flops, bandwidth=bandwidth,
        forward=0.6, train=0.75, stream=0.75, step=1.2e-3, start=2,
    )  # fmt: skip


def device(named: str) -> Device:
    """Return a device by name, or read one from a YAML file.

    Raises:
        InputError: neither a known name nor a file that describes a device.
    """
    if found := DEVICES.get(named.lower()):
        return found
    if named.lower() == "cpu":
        return this_machine()
    path = Path(named)
    if not path.is_file():
        raise InputError(
            f"--device {named}: neither {', '.join(DEVICES)}, cpu, nor a file (docs/scale.md says of what)"
        )
    from regrow.parsing import parse

    try:
        value: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    return parse(Device, value, str(path))
