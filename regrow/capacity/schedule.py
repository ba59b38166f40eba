"""How long a graph of steps takes on so many GPUs: list scheduling.

Whenever a GPU is free, the step begins that waits for nothing any more and has the longest way to the end. A step that
needs more GPUs than are free lets others pass. Steps without a GPU begin at once: CPUs are taken to be there. By
Graham's bound the result takes at most twice as long as the best one where every step needs at most one GPU.
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from regrow.errors import InputError


@dataclass(frozen=True)
class Task:
    """A step: how long it takes, how many GPUs it holds meanwhile, and what it waits for."""

    seconds: float
    gpus: int = 0
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """When each task begins, and when the last one ends."""

    makespan: float
    begins: dict[str, float]


def critical_path(tasks: Mapping[str, Task]) -> dict[str, float]:
    """Return the longest way from each task's begin to the end of everything.

    Raises:
        InputError: a task waits for one that is not there, or for itself.
    """
    followers: dict[str, list[str]] = {name: [] for name in tasks}
    for name, task in tasks.items():
        for other in task.after:
            if other not in tasks:
                raise InputError(f"{name}: waits for {other}, which is no step")
            followers[other].append(name)
    left = {name: len(names) for name, names in followers.items()}
    ready = [name for name, count in left.items() if not count]
    found: dict[str, float] = {}
    while ready:
        name = ready.pop()
        found[name] = tasks[name].seconds + max((found[one] for one in followers[name]), default=0.0)
        for other in tasks[name].after:
            left[other] -= 1
            if not left[other]:
                ready.append(other)
    if len(found) < len(tasks):
        raise InputError(f"{', '.join(sorted(set(tasks) - set(found)))}: wait for each other")
    return found


def schedule(tasks: Mapping[str, Task], gpus: int) -> Schedule:
    """Place every task.

    Args:
        tasks: by name; names in `after` stand once each.
        gpus: how many there are.

    Raises:
        InputError: a task needs more GPUs than there are.
    """
    if tasks and (most := max(task.gpus for task in tasks.values())) > gpus:
        name = next(name for name, task in tasks.items() if task.gpus == most)
        raise InputError(f"{name}: needs {most} GPUs, there are {gpus}")
    rank = critical_path(tasks)
    followers: dict[str, list[str]] = {name: [] for name in tasks}
    waits = {name: len(set(task.after)) for name, task in tasks.items()}
    for name, task in tasks.items():
        for other in set(task.after):
            followers[other].append(name)
    ready = [(-rank[name], name) for name, count in waits.items() if not count]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    begins: dict[str, float] = {}
    now, free = 0.0, gpus
    while ready or running:
        passed = []
        while ready:
            entry = heapq.heappop(ready)
            task = tasks[entry[1]]
            if task.gpus > free:
                passed.append(entry)
                continue
            free -= task.gpus
            begins[entry[1]] = now
            heapq.heappush(running, (now + task.seconds, entry[1]))
        for entry in passed:
            heapq.heappush(ready, entry)
        now, ended = heapq.heappop(running)
        free += tasks[ended].gpus
        for name in followers[ended]:
            waits[name] -= 1
            if not waits[name]:
                heapq.heappush(ready, (-rank[name], name))
    return Schedule(now, begins)
