"""What the registry says, as tables that people read."""

import json
from collections.abc import Sequence
from typing import Any

from regrow.evaluate.markdown import markdown
from regrow.registry.diff import Difference, Part
from regrow.registry.names import CHECKPOINT, LICENCES_TAG, METRIC_PREFIX
from regrow.registry.versions import Version

_SHORT = 12
_WIDE = 44


def listing(found: Sequence[Version]) -> str:
    """A line for each version."""
    metrics = list(dict.fromkeys(name for one in found for name in sorted(one.metrics)))[:3]
    head = ["version", "aliases", "checkpoint", *metrics, "licence", "made (UTC)", "state"]
    return markdown([head, *(_line(one, metrics) for one in found)], left=len(head))


def _line(one: Version, metrics: Sequence[str]) -> list[str]:
    return [
        one.label,
        ", ".join(one.aliases),
        one.digest[:_SHORT] if one.digest else "not by regrow",
        *(f"{one.metrics[name]:.4g}" if name in one.metrics else "" for name in metrics),
        one.licences.strictest if one.licences.links else "unknown",
        f"{one.created:%Y-%m-%d %H:%M}",
        "" if one.finished else "unfinished",
    ]


def account(version: Version) -> str:
    """Everything that a version says of itself."""
    hidden = (LICENCES_TAG, METRIC_PREFIX)
    rows = [
        ["what", version.label],
        ["aliases", ", ".join(version.aliases) or "none"],
        ["made (UTC)", f"{version.created:%Y-%m-%d %H:%M:%S}"],
        ["files", version.source],
        ["MLflow run", version.run_id or "none"],
        *([name, f"{value:.6g}"] for name, value in sorted(version.metrics.items())),
        *([key, value] for key, value in sorted(version.tags.items()) if not key.startswith(hidden)),
    ]
    parts = [markdown(rows, left=2), version.licences.sentence()]
    if version.licences.links:
        links = [[one.kind, one.name, one.licence or "unknown", one.terms] for one in version.licences.links]
        parts.append(markdown([["what", "name", "licence", "terms"], *links], left=4))
    if not version.finished:
        parts.append(
            "Unfinished: a call that was to register it was stopped; the next `regrow register` completes it."
        )
    parts.append(f"The checkpoint lies in the folder {CHECKPOINT}/ of its files.")
    return "\n\n".join(parts)


def difference(found: Difference) -> str:
    """A table of what differs, after a line that says in which respects."""
    said = [f"{found.a} and {found.b}"]
    for result, words in (("different", "differ in"), ("same", "are the same in"), ("unknown", "unknown")):
        names = [part.name for part in found.parts if part.result == result]
        if names:
            said.append(f"{words}: {', '.join(names)}")
    rows = [["part", "what", found.a, found.b]]
    rows += [row for part in found.parts for row in _rows(part)]
    notes = [f"{part.name}: {part.note}" for part in found.parts if part.note]
    table = [markdown(rows, left=4)] if len(rows) > 1 else []
    return "\n\n".join(["\n".join(said), *table, *(["\n".join(notes)] if notes else [])])


def _rows(part: Part) -> list[list[str]]:
    return [[part.name, one.key, _cell(one.a), _cell(one.b)] for one in part.changes]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:_SHORT]
    text = " ".join(text.split())
    return text if len(text) <= _WIDE else f"{text[: _WIDE - 3]}..."
