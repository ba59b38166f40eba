"""A plan: the steps of a configuration with what they need, ask for, take and move, and what does not fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

from regrow.capacity.assume import Assumptions
from regrow.capacity.device import Device
from regrow.capacity.graph import Step, compress_steps
from regrow.capacity.need import GIB, Need
from regrow.capacity.paper import paper
from regrow.capacity.requests import Request, of_stage, of_step
from regrow.capacity.schedule import Task, critical_path, schedule
from regrow.capacity.shapes import config_for
from regrow.capacity.study import study_steps
from regrow.config import CompressConfig
from regrow.errors import InputError
from regrow.study import StudyConfig

# A device is full at this share of its memory: the allocator's pieces do not fit together to the last byte.
FULL = 0.95
FLEETS = (1, 4, 16, 64)


@dataclass(frozen=True)
class Planned:
    """A step with what its pod asks for."""

    step: Step
    asked: Request
    device: Device

    @property
    def need(self) -> Need:
        """What it needs."""
        return self.step.need

    @property
    def devices(self) -> int:
        """Devices that it holds: what it asks for, or else what it needs."""
        if self.asked.gpus is not None and self.device.kind == "cuda":
            return self.asked.gpus
        return self.need.gpus

    @property
    def used(self) -> int:
        """Devices that it computes on: no more than it uses together, and no more than it holds."""
        return min(self.need.gpus, self.devices or self.need.gpus)

    @cached_property
    def seconds(self) -> float:
        """Seconds from the pod's creation to its end, every input fetched."""
        return self.need.seconds(self.device, gpus=self.used)

    @property
    def device_hours(self) -> float:
        """Hours of devices that are held, moving bytes included."""
        return self.seconds * self.devices / 3600

    @cached_property
    def warnings(self) -> list[str]:
        """What does not fit, in plain words."""
        need, asked = self.need, self.asked
        found = list(need.warnings)
        host = need.host_bytes(self.device)
        if asked.memory is not None and host > asked.memory:
            pods = f" in each of {asked.pods} pods" if asked.pods > 1 else ""
            found.append(f"needs {_gib(host)} of host memory{pods}, asks for {_gib(asked.memory)}")
        if asked.disk is not None and need.disk_bytes > asked.disk:
            found.append(f"needs {_gib(need.disk_bytes)} of disk, asks for {_gib(asked.disk)}")
        if self.device.kind == "cpu":
            if asked.memory is None and host > self.device.memory:
                found.append(f"needs {_gib(host)} of memory, the device has {_gib(self.device.memory)}")
            return found
        if need.gpus and asked.gpus == 0:
            found.append("computes on a model and asks for no GPU")
        if 0 < self.devices < need.gpus:
            found.append(f"computes on {need.gpus} GPUs together ({need.spreads}), has {self.devices}")
        least = least_devices(need, self.device)
        # Devices that a step holds and does not use take nothing of it.
        if need.gpus and need.device_bytes > need.gpus * FULL * self.device.memory:
            what = f"needs {_gib(need.device_bytes)} on {least} GPUs of {_gib(self.device.memory)}"
            how = (
                f"set {need.spreads}"
                if need.spreads
                else "the stage computes on one device: it cannot run so"
            )
            found.append(f"{what}, has {self.devices}; {how}")
        return found


def least_devices(need: Need, device: Device) -> int:
    """Return how many devices hold what a step has on them."""
    return max(need.gpus, ceil(need.device_bytes / (FULL * device.memory))) if need.gpus else 0


@dataclass(frozen=True)
class Plan:
    """A whole configuration."""

    model: str
    parameters: int
    kind: str
    device: Device
    steps: list[Planned]
    price: float | None = None
    stack: str | None = None
    lacks: list[str] | None = None

    @property
    def device_hours(self) -> float:
        """Hours of all devices."""
        return sum(one.device_hours for one in self.steps)

    @property
    def cost(self) -> float | None:
        """Price of these hours, in the unit of the price that the user gave; nothing else is in it."""
        return None if self.price is None else self.price * self.device_hours

    @property
    def moved(self) -> int:
        """Bytes through the artifact store where every step fetches all that it reads."""
        return sum(one.need.moved for one in self.steps)

    @property
    def moved_once(self) -> int:
        """The same where one node's cache keeps what it has fetched: each artifact comes once."""
        fetched: dict[str, int] = {}
        for one in self.steps:
            fetched |= one.need.fetched
        return sum(fetched.values()) + sum(one.need.stored for one in self.steps)

    def tasks(self) -> dict[str, Task]:
        """The steps as the scheduler takes them."""
        return {one.step.name: Task(one.seconds, one.devices, one.step.after) for one in self.steps}

    @cached_property
    def longest_way(self) -> float:
        """Seconds of the longest chain of steps: no number of devices makes it shorter."""
        return max(critical_path(self.tasks()).values())

    def fleets(self, counts: tuple[int, ...] = FLEETS) -> dict[int, float | None]:
        """Seconds to the end on so many devices; None where a step needs more than there are."""
        found: dict[int, float | None] = {}
        for count in counts:
            try:
                found[count] = schedule(self.tasks(), count).makespan
            except InputError:
                found[count] = None
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs; bytes and seconds are whole numbers."""
        return {
            "model": self.model,
            "parameters": self.parameters,
            "kind": self.kind,
            "device": self.device.model_dump(),
            "stack": self.stack,
            "steps": [_row(one) for one in self.steps],
            "totals": {
                "steps": len(self.steps),
                "device_hours": round(self.device_hours, 4),
                "cost": None if self.cost is None else round(self.cost, 2),
                "moved_bytes": self.moved,
                "moved_bytes_cached": self.moved_once,
                "longest_way_seconds": round(self.longest_way),
                "seconds_on": {
                    str(count): None if taken is None else round(taken)
                    for count, taken in self.fleets().items()
                },
            },
            "warnings": [f"{one.step.name}: {text}" for one in self.steps for text in one.warnings],
            "lacks": self.lacks,
        }


def _row(one: Planned) -> dict[str, Any]:
    need, asked = one.need, one.asked
    return {
        "name": one.step.name,
        "stage": one.step.stage,
        "after": list(one.step.after),
        "image": asked.image,
        "step_operator": asked.operator,
        "requested": {
            "gpus": asked.gpus,
            "pods": asked.pods,
            "memory_bytes": asked.memory,
            "disk_bytes": asked.disk,
        },
        "devices": one.devices,
        "least_devices": least_devices(need, one.device),
        "device_bytes": dict(need.device),
        "host_bytes": dict(need.host),
        "disk_bytes": need.disk_bytes,
        "fetched_bytes": dict(need.fetched),
        "outside_bytes": need.outside,
        "stored_bytes": need.stored,
        "operations": round(sum(work.flops for work in need.work)),
        "seconds": round(one.seconds),
        "seconds_moving": round(need.moving(one.device)),
        "device_hours": round(one.device_hours, 4),
        "notes": list(need.notes),
        "warnings": one.warnings,
    }


def make(
    config: CompressConfig | StudyConfig,
    whole: Mapping[str, Any],
    device: Device,
    folder: Path,
    *,
    assumed: Assumptions | None = None,
    model: str | None = None,
    stack: Any = None,
    price: float | None = None,
) -> Plan:
    """Plan a configuration; nothing is started, registered, fetched or asked for.

    Args:
        config: the parameters.
        whole: the whole file, with ZenML's own sections.
        device: what the steps compute on.
        folder: an empty folder for configurations on paper.
        assumed: sizes that the configuration does not say.
        model: a known shape, a config.json or a folder, instead of the configuration's model.
        stack: a stack file (infra.stacks.schema.StackFile).
        price: of a device's hour, in any currency.

    Raises:
        InputError: the model's shape is not known, or the configuration does not fit it.
    """
    name, shape = config_for(config.model, model)
    base = paper(shape, name, folder)
    sizes = assumed or Assumptions()
    own = whole.get("steps") or {}
    engines = {
        f"generate_self_data_{one.name}": (one.self_data or config.self_data).engine
        for one in config.datasets
    }

    def asked(step: str, stage: str) -> Request:
        return of_step(own.get(step), _asked(stack, stage, engines.get(step)), step)

    if isinstance(config, StudyConfig):
        steps, kind = study_steps(base, config, device, sizes, folder, asked=asked), "study"
    else:
        steps, kind = compress_steps(base, config, device, sizes, folder, asked=asked), "run"
    planned = [Planned(one, asked(one.name, one.stage), device) for one in steps]
    return Plan(name, base.parameters, kind, device, planned, price, stack.name if stack else None)


def _asked(stack: Any, stage: str, engine: str | None) -> Request:
    if stack is None:
        return Request()
    return of_stage(stack.stage(stage).with_engine(engine), cached=stack.cache is not None)


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"
