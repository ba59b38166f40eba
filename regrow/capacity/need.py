"""What one step needs, in the units that add up: bytes, operations, and what becomes of them on a device."""

from dataclasses import dataclass, field
from typing import Literal

from regrow.capacity.device import Device

GIB = 2**30

Kind = Literal["forward", "train", "decode", "decode_compiled"]


@dataclass(frozen=True)
class Work:
    """A stretch of computing of one kind.

    Attributes:
        kind: which share of the device's peak is reached.
        flops: operations.
        traffic: bytes read from the device's memory.
        block_steps: decoding steps times blocks, each of which takes a time of its own however little it computes.
    """

    kind: Kind
    flops: float
    traffic: float = 0.0
    block_steps: float = 0.0

    def seconds(self, device: Device, devices: int = 1) -> float:
        """Return how long it takes: what is slowest of computing, reading memory, and starting kernels.

        In training the first two come after each other (as in `regrow.tune.estimate`): much of what is between the
        products of matrices only moves memory. Devices share everything evenly; that they wait for each other is part
        of the utilisation.
        """
        share = device.train if self.kind == "train" else device.forward
        computing = self.flops / (device.flops * share * devices)
        reading = self.traffic / (device.bandwidth * device.stream * devices)
        step = device.step_compiled if self.kind == "decode_compiled" else device.step
        if self.kind == "train":
            return computing + reading
        return max(computing, reading, self.block_steps * step)


@dataclass(frozen=True)
class Need:
    """What one step needs.

    Attributes:
        device: bytes on the device by what takes them; all devices of the step together.
        host: bytes of host memory by what takes them; of one pod, where several share the step.
        fetched: bytes that come from the artifact store, by artifact.
        outside: bytes that come from a hub or an index.
        stored: bytes that go to the artifact store.
        scratch: bytes on the node's disk besides what is fetched.
        disk: bytes read from and written to that disk.
        work: what is computed.
        merged: weights that a merge writes.
        gpus: devices that the step uses together.
        spreads: how several devices can share the step; empty: it runs on one device, whatever there is.
        notes: what a reader must know.
        warnings: why the step would fail, whatever it asks for.
    """

    device: dict[str, int] = field(default_factory=dict)
    host: dict[str, int] = field(default_factory=dict)
    fetched: dict[str, int] = field(default_factory=dict)
    outside: int = 0
    stored: int = 0
    scratch: int = 0
    disk: int = 0
    work: tuple[Work, ...] = ()
    merged: float = 0.0
    gpus: int = 0
    spreads: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def device_bytes(self) -> int:
        """Bytes on all devices together."""
        return sum(self.device.values())

    def host_bytes(self, device: Device) -> int:
        """Bytes of host memory; on a CPU what would lie on the device lies there too."""
        return sum(self.host.values()) + (self.device_bytes if device.kind == "cpu" else 0)

    @property
    def disk_bytes(self) -> int:
        """Bytes on the node's disk: what is fetched, and what is written."""
        return sum(self.fetched.values()) + self.scratch

    @property
    def moved(self) -> int:
        """Bytes through the artifact store."""
        return sum(self.fetched.values()) + self.stored

    def computing(self, device: Device, gpus: int | None = None) -> float:
        """Seconds of computing, on so many devices; on as many as it uses if not given."""
        count = max(self.gpus if gpus is None else gpus, 1)
        return sum(one.seconds(device, count) for one in self.work) + self.merged / device.merge

    def moving(self, device: Device, *, cached: bool = False) -> float:
        """Seconds of moving bytes; nothing is fetched where the node's cache has it."""
        over = self.outside + self.stored + (0 if cached else sum(self.fetched.values()))
        return over / device.network + self.disk / device.disk

    def seconds(self, device: Device, *, cached: bool = False, gpus: int | None = None) -> float:
        """Seconds from the pod's creation to its end; a GPU is held for all of them."""
        return device.start + self.moving(device, cached=cached) + self.computing(device, gpus)
