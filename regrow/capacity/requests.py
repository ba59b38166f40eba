"""What each step asks a cluster for: by the stack file's stages, and by the run configuration's own `steps:`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from regrow.errors import InputError

_GPU = "nvidia.com/gpu"
_UNITS = {"": 1, "m": 1e-3, **{f"{u}": 1000.0**n for n, u in enumerate("kMGTP", 1)},
          **{f"{u}i": 1024.0**n for n, u in enumerate("KMGTP", 1)}}  # fmt: skip


@dataclass(frozen=True)
class Request:
    """What a step's pod asks for; None where nothing is said.

    Attributes:
        image: which of the images.
        operator: step operator.
        gpus: of all pods together.
        memory: bytes of host memory, of each pod.
        disk: bytes of the node's disk, of each pod.
        pods: that share the step.
    """

    image: str | None = None
    operator: str | None = None
    gpus: int | None = None
    memory: int | None = None
    disk: int | None = None
    pods: int = 1


def quantity(text: str | int, where: str) -> int:
    """Return the number that Kubernetes writes as 64Gi, 500M or 2.

    Raises:
        InputError: not such a number; the message names `where`.
    """
    found = re.match(r"^(\d+(?:\.\d+)?)([kKMGTP]i?|m|)$", str(text).strip())
    if not found or found[2] not in _UNITS:
        raise InputError(f"{where}: {text!r} is no quantity; write it as 64Gi, 500M or 2")
    return round(float(found[1]) * _UNITS[found[2]])


def of_stage(stage: Any, *, cached: bool) -> Request:
    """Return what a stage of a stack file asks for (infra.stacks).

    Args:
        stage: the stage.
        cached: whether the stack has a volume for weights and work, so that these do not count as the pod's own disk.
    """
    asked = stage.resources
    return Request(
        image=stage.image,
        operator=stage.step_operator,
        gpus=stage.pods * asked.gpus,
        memory=quantity(asked.memory, "memory") if asked.memory else None,
        disk=quantity(asked.ephemeral_storage, "ephemeral_storage")
        if asked.ephemeral_storage and not cached
        else None,
        pods=stage.pods,
    )


def of_step(settings: Mapping[str, Any] | None, below: Request, name: str) -> Request:
    """Lay what a run configuration says of a step over what its stage asks for."""
    if not isinstance(settings, Mapping):
        return below
    if operator := settings.get("step_operator"):
        below = replace(below, operator=str(operator))
    for one in (settings.get("settings") or {}).values():
        pod = one.get("pod_settings") if isinstance(one, Mapping) else None
        if not isinstance(pod, Mapping):
            continue
        asked = dict((pod.get("resources") or {}).get("requests") or {})
        asked |= {
            key: value
            for key, value in ((pod.get("resources") or {}).get("limits") or {}).items()
            if key == "memory" or key not in asked
        }
        where = f"steps.{name}"
        below = replace(
            below,
            gpus=below.pods * int(asked[_GPU]) if _GPU in asked else below.gpus,
            memory=quantity(asked["memory"], where) if "memory" in asked else below.memory,
            disk=quantity(asked["ephemeral-storage"], where) if "ephemeral-storage" in asked else below.disk,
        )
    return below
