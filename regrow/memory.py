"""How much memory this container may take and has taken, and whether the kernel has killed for it: control groups."""

import re
from dataclasses import dataclass
from pathlib import Path

from regrow.files import read_json

_GIB = 2**30
_UNLIMITED = 2**60  # version 1 writes the largest number of pages


@dataclass(frozen=True)
class Memory:
    """What the control group of this process says; None where it does not.

    Attributes:
        limit: bytes that it and its children may take.
        peak: most bytes that they have taken.
        kills: processes that the kernel has killed because there was no more.
    """

    limit: int | None = None
    peak: int | None = None
    kills: int | None = None


def read(process: Path = Path("/proc/self")) -> Memory:
    """Read the control group of a process; what cannot be read is None."""
    for version, folder, top in _places(process):
        if version == 2 and (folder / "memory.current").exists():
            # The limit may stand at a parent: a pod's at the pod, not at its container.
            above = [folder, *(one for one in folder.parents if one.is_relative_to(top))]
            limits = [limit for one in above if (limit := _number(one / "memory.max")) is not None]
            return Memory(
                min(limits, default=None),
                _number(folder / "memory.peak"),
                _field(folder / "memory.events", "oom_kill"),
            )
        if version == 1 and (folder / "memory.usage_in_bytes").exists():
            limit = _field(folder / "memory.stat", "hierarchical_memory_limit")
            return Memory(
                limit if limit is not None and limit < _UNLIMITED else None,
                _number(folder / "memory.max_usage_in_bytes"),
                _field(folder / "memory.oom_control", "oom_kill"),
            )
    return Memory()


def estimated(work: Path) -> int | None:
    """Return the bytes that a tuning job in a working folder was estimated to need."""
    files = sorted(work.glob("**/estimate.json"), key=lambda file: file.stat().st_mtime)
    return sum(read_json(files[-1])["parts"].values()) or None if files else None


def words(memory: Memory, estimate: int | None) -> str:
    """Say limit, peak and estimate."""
    said = [
        f"limit {_gib(memory.limit)}" if memory.limit is not None else "no limit",
        *([f"peak {_gib(memory.peak)}"] if memory.peak is not None else []),
        *([f"killed by the kernel: {memory.kills}"] if memory.kills else []),
        *([f"estimated need {_gib(estimate)}"] if estimate is not None else []),
    ]
    return f"memory of this container: {', '.join(said)}"


def _places(process: Path) -> list[tuple[int, Path, Path]]:
    """Return version, folder and mount point of the control groups that may hold a process's memory."""
    groups: dict[str, str] = {}
    for line in _text(process / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    found = []
    for line in _text(process / "mountinfo").splitlines():
        fields, _, rest = line.partition(" - ")
        kind, _, options = (*rest.split(" "), "", "")[:3]
        root, mount = (_plain(one) for one in fields.split(" ")[3:5])
        name = {"cgroup2": "", "cgroup": "memory"}.get(kind)
        if name is None or name not in groups or (name and name not in options.split(",")):
            continue
        # Without a namespace of its own a container sees only its own part of the tree, mounted at the top.
        path = groups[name]
        inside = path.removeprefix(root) if root != "/" and path.startswith(root) else path
        version = 2 if kind == "cgroup2" else 1
        for folder in (Path(mount) / inside.lstrip("/"), Path(mount)):
            if folder.is_dir():
                found.append((version, folder, Path(mount)))
                break
    return found


def _plain(text: str) -> str:
    """Undo mountinfo's octal signs for blanks."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _field(path: Path, name: str) -> int | None:
    for line in _text(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.strip().isdigit():
            return int(value)
    return None


def _gib(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB / 10 else f"{count / 2**20:.0f} MiB"
