"""A plan as people read it."""

from collections.abc import Sequence

from regrow.capacity.need import GIB
from regrow.capacity.plan import Plan, Planned
from regrow.prune.size import human

# Steps that are told one by one; of more, those of a stage are told together.
_MOST = 40


def text(plan: Plan) -> str:
    """Draw the steps, the totals, what does not fit and what the stack lacks."""
    device = plan.device
    lines = [
        f"{plan.model}, {human(plan.parameters)} parameters; {plan.kind} of {len(plan.steps)} steps",
        f"{device.name}: {device.memory / GIB:.0f} GiB, {device.flops / 1e12:.4g} TFLOP/s, of which "
        f"{device.forward:.0%} (forwards) and {device.train:.0%} (training) are assumed",
        "",
        *(_each(plan) if len(plan.steps) <= _MOST else _by_stage(plan)),
        "",
        *_totals(plan),
    ]
    notes = [
        f"{one.step.name}: {', '.join(one.need.notes)}"
        for one in plan.steps
        if one.need.notes and len(plan.steps) <= _MOST
    ]
    for title, found in (
        (
            "does not fit",
            _together([(one.step.stage, one.step.name, t) for one in plan.steps for t in one.warnings]),
        ),
        (f"the stack {plan.stack} lacks", plan.lacks or []),
        ("notes", notes),
    ):
        if found:
            lines += ["", f"{title}:", *(f"  {line}" for line in found)]
    if plan.lacks == []:
        lines += ["", f"the stack {plan.stack} lacks nothing"]
    return "\n".join(lines)


def _each(plan: Plan) -> list[str]:
    head = (
        "step",
        "image",
        "GPUs",
        "GPU GiB",
        "host GiB",
        "asked",
        "disk GiB",
        "moved GB",
        "hours",
        "GPU hours",
    )
    return _table(head, [_line(one, one.step.name) for one in plan.steps])


def _line(one: Planned, name: str) -> tuple[str, ...]:
    need, asked = one.need, one.asked
    return (
        name,
        asked.image or "-",
        str(one.devices or "-") if one.device.kind == "cuda" else "-",
        f"{need.device_bytes / GIB:.1f}" if need.gpus and one.device.kind == "cuda" else "-",
        f"{need.host_bytes(one.device) / GIB:.1f}",
        f"{asked.memory / GIB:.0f}" if asked.memory else "-",
        f"{need.disk_bytes / GIB:.1f}",
        f"{need.moved / 1e9:.1f}",
        f"{one.seconds / 3600:.2f}",
        f"{one.device_hours:.2f}" if one.devices else "-",
    )


def _by_stage(plan: Plan) -> list[str]:
    head = ("stage", "steps", "image", "GPUs", "GPU GiB", "host GiB", "moved GB", "hours each", "GPU hours")
    stages: dict[str, list[Planned]] = {}
    for one in plan.steps:
        stages.setdefault(one.step.stage, []).append(one)
    rows = []
    for stage, ones in stages.items():
        worst = max(ones, key=lambda one: one.need.device_bytes)
        rows.append((
            stage,
            str(len(ones)),
            worst.asked.image or "-",
            str(worst.devices or "-"),
            f"{worst.need.device_bytes / GIB:.1f}" if worst.need.gpus else "-",
            f"{max(one.need.host_bytes(plan.device) for one in ones) / GIB:.1f}",
            f"{sum(one.need.moved for one in ones) / 1e9:.1f}",
            f"{sum(one.seconds for one in ones) / len(ones) / 3600:.2f}",
            f"{sum(one.device_hours for one in ones):.2f}" if worst.devices else "-",
        ))  # fmt: skip
    return _table(head, rows)


def _totals(plan: Plan) -> list[str]:
    unit = "GPU" if plan.device.kind == "cuda" else "machine"
    found = [
        f"{unit} hours      {plan.device_hours:.2f}, bytes moved while a {unit} is held included",
        f"bytes moved    {plan.moved / 1e9:.1f} GB if every step fetches what it reads, {plan.moved_once / 1e9:.1f} GB "
        "if one node's cache keeps it",
        f"longest chain  {plan.longest_way / 3600:.2f} h: the least it takes, on any number of {unit}s",
    ]
    if plan.cost is not None:
        found.insert(
            1, f"cost           {plan.cost:.2f} at {plan.price:g} an hour; storage and traffic not counted"
        )
    fleet = [
        f"{count}: {'a step needs more' if taken is None else f'{taken / 3600:.2f} h'}"
        for count, taken in plan.fleets().items()
    ]
    return [*found, f"on N {unit}s{' ' * (9 - len(unit))}{', '.join(fleet)}"]


def _together(found: list[tuple[str, str, str]]) -> list[str]:
    """Say once what many steps of a stage have in common."""
    names: dict[tuple[str, str], list[str]] = {}
    for stage, name, said in found:
        names.setdefault((stage, said), []).append(name)
    return [
        f"{', '.join(ones) if len(ones) <= 2 else f'{stage} ({len(ones)} steps)'}: {said}"
        for (stage, said), ones in names.items()
    ]


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    left = {i for i, title in enumerate(head) if title in ("step", "stage", "image")}

    def line(row: tuple[str, ...]) -> str:
        cells = [
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return [line(head), line(tuple("-" * width for width in widths)), *map(line, rows)]
