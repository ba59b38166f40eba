"""List scheduling against every possible schedule of small graphs, and against bounds of large ones."""

import itertools
import random

import pytest

from regrow.capacity.schedule import Task, critical_path, schedule
from regrow.errors import InputError


def best(tasks: dict[str, Task], gpus: int) -> float:
    """The shortest of all schedules: every order in which tasks may be placed, each as early as it can be.

    Some order of begins is that of an optimal schedule, and placing in it greedily is no worse.
    """
    found = float("inf")
    for order in itertools.permutations(tasks):
        ends: dict[str, float] = {}
        running: list[tuple[float, float, int]] = []  # begin, end, GPUs
        for name in order:
            task = tasks[name]
            if any(other not in ends for other in task.after):
                break
            ready = max((ends[other] for other in task.after), default=0.0)
            begin = next(
                moment
                for moment in sorted({ready, *(end for _, end, _ in running if end > ready)})
                if fits(running, moment, moment + task.seconds, task.gpus, gpus)
            )
            ends[name] = begin + task.seconds
            running.append((begin, ends[name], task.gpus))
        else:
            found = min(found, max(ends.values()))
    return found


def fits(running: list[tuple[float, float, int]], begin: float, end: float, wanted: int, gpus: int) -> bool:
    moments = {begin, *(one for one, _, _ in running if begin < one < end)}
    return all(
        wanted + sum(held for one, other, held in running if one <= moment < other) <= gpus
        for moment in moments
    )


def graph(seed: int, size: int, *, most: int = 1) -> dict[str, Task]:
    draw = random.Random(seed)
    tasks: dict[str, Task] = {}
    for number in range(size):
        after = tuple(name for name in tasks if draw.random() < 0.3)
        tasks[f"t{number}"] = Task(draw.randint(1, 9), draw.randint(0, most), after)
    return tasks


@pytest.mark.parametrize("gpus", [1, 2, 3])
@pytest.mark.parametrize("seed", range(12))
def test_it_is_never_better_than_the_best_and_within_grahams_bound(seed: int, gpus: int):
    """While a task without a GPU runs, all GPUs may be idle: then the bound is twice the best."""
    tasks = graph(seed, 6)
    optimum, found = best(tasks, gpus), schedule(tasks, gpus).makespan
    assert optimum <= found <= 2 * optimum
    tasks = {name: Task(task.seconds, 1, task.after) for name, task in tasks.items()}
    optimum, found = best(tasks, gpus), schedule(tasks, gpus).makespan
    assert optimum <= found <= (2 - 1 / gpus) * optimum + 1e-9


def test_it_is_mostly_the_best():
    pairs = [(best(graph(seed, 6), 2), schedule(graph(seed, 6), 2).makespan) for seed in range(30)]
    assert sum(found == optimum for optimum, found in pairs) >= 24


@pytest.mark.parametrize("gpus", [4, 7, 64])
@pytest.mark.parametrize("seed", range(5))
def test_a_schedule_is_valid_and_its_end_within_bounds(seed: int, gpus: int):
    tasks = graph(seed, 120, most=4)
    found = schedule(tasks, gpus)
    ends = {name: found.begins[name] + task.seconds for name, task in tasks.items()}
    for name, task in tasks.items():
        assert all(ends[other] <= found.begins[name] for other in task.after)
    for moment in found.begins.values():
        held = sum(task.gpus for name, task in tasks.items() if found.begins[name] <= moment < ends[name])
        assert held <= gpus
    work = sum(task.seconds * task.gpus for task in tasks.values())
    longest = max(critical_path(tasks).values())
    assert found.makespan == max(ends.values())
    assert max(longest, work / gpus) <= found.makespan <= sum(task.seconds for task in tasks.values())


def test_enough_gpus_leave_the_longest_chain():
    tasks = graph(3, 60, most=2)
    assert schedule(tasks, 1000).makespan == max(critical_path(tasks).values())


def test_what_cannot_be_placed_is_refused():
    with pytest.raises(InputError, match="needs 2 GPUs, there are 1"):
        schedule({"a": Task(1, 2)}, 1)
    with pytest.raises(InputError, match="is no step"):
        schedule({"a": Task(1, 1, ("b",))}, 1)
    with pytest.raises(InputError, match="wait for each other"):
        schedule({"a": Task(1, 1, ("b",)), "b": Task(1, 1, ("a",))}, 1)
    assert schedule({}, 1).makespan == 0.0
