"""The chain as a drawing: what was made on top, what it was made from below."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape

from regrow.lineage.facts import facts
from regrow.lineage.result import AuditResult, Link, Origin

_WIDTH, _HEIGHT, _ACROSS, _DOWN, _EDGE = 214, 66, 26, 58, 8
# Characters that fit into a line of a box.
_FITS = (24, 29, 30)
_MARKS = {"sound": "\N{CHECK MARK}", "broken": "\N{BALLOT X}", "source": ""}


@dataclass(slots=True)
class _Node:
    name: str
    lines: tuple[str, str, str]
    style: str
    anchor: str | None
    below: list[str] = field(default_factory=list)
    row: int = 0
    x: float = 0.0
    later: bool = False


def draw(result: AuditResult) -> str:
    """Return the chain as SVG, for a page that has the styles of `audit.html.jinja`."""
    nodes = _nodes(result.chain)
    if not nodes:
        return ""
    rows = _rows(nodes)
    width = max(len(row) for row in rows) * (_WIDTH + _ACROSS) - _ACROSS + 2 * _EDGE
    height = len(rows) * (_HEIGHT + _DOWN) - _DOWN + 2 * _EDGE
    _place(rows, nodes, width)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Chain of {len(result.chain)} statements" style="max-width:{width}px">'
    ]
    for node in nodes.values():
        parts += [_edge(node, nodes[one]) for one in node.below if one in nodes]
    parts += [_box(node) for node in nodes.values()]
    return "\n".join([*parts, "</svg>"])


def _nodes(chain: Iterable[Link]) -> dict[str, _Node]:
    nodes: dict[str, _Node] = {}
    for link in chain:
        said = next((f"{name} {value}" for name, value in facts(link).items()), "")
        node = _Node(
            name=link.statement,
            lines=(link.stage, f"{link.kind} {link.subject[:12]}", said),
            style="sound" if link.sound else "broken",
            anchor=link.statement[:16],
            later=link.role == "later",
        )
        nodes[node.name] = node
        for one in link.materials:
            if one.statement and one.kind == "statement":
                node.below.append(one.statement)
            elif one.kind in ("source", "missing"):
                leaf = _leaf(one)
                nodes.setdefault(leaf.name, leaf)
                node.below.append(leaf.name)
    return nodes


def _leaf(one: Origin) -> _Node:
    digest = one.digest.partition(":")[2][:12]
    missing = one.kind == "missing"
    return _Node(
        name=f"{one.kind} {one.uri} {one.digest}",
        lines=("statement missing" if missing else "source", f"{one.name} {digest}", one.uri or ""),
        style="broken" if missing else "source",
        anchor=None,
    )


def _rows(nodes: Mapping[str, _Node]) -> list[list[_Node]]:
    """Put each node one row below the lowest of those made from it; what came later just above what it is about."""
    order = list(nodes.values())
    for _ in order:
        moved = False
        for node in order:
            for name in node.below:
                if name in nodes and nodes[name].row <= node.row:
                    nodes[name].row = node.row + 1
                    moved = True
        if not moved:
            break
    above = {name for node in order for name in node.below}
    for node in reversed(order):
        if node.later and node.name not in above:
            node.row = max(0, min((nodes[one].row for one in node.below if one in nodes), default=1) - 1)
    rows: dict[int, list[_Node]] = {}
    for node in order:
        rows.setdefault(node.row, []).append(node)
    return [rows[number] for number in sorted(rows)]


def _place(rows: list[list[_Node]], nodes: Mapping[str, _Node], width: float) -> None:
    """Centre each row, ordered by where the nodes above it are."""
    above: dict[str, list[float]] = {}
    for row in rows:
        row.sort(key=lambda node: sum(found) / len(found) if (found := above.get(node.name)) else node.x)
        left = (width - len(row) * (_WIDTH + _ACROSS) + _ACROSS) / 2
        for number, node in enumerate(row):
            node.x = left + number * (_WIDTH + _ACROSS)
            for name in node.below:
                if name in nodes:
                    above.setdefault(name, []).append(node.x)


def _top(node: _Node) -> float:
    return _EDGE + node.row * (_HEIGHT + _DOWN)


def _edge(upper: _Node, lower: _Node) -> str:
    x1, y1 = upper.x + _WIDTH / 2, _top(upper) + _HEIGHT
    x2, y2 = lower.x + _WIDTH / 2, _top(lower)
    bend = (y2 - y1) / 2
    style = "edge later" if upper.later else "edge"
    return (
        f'<path class="{style}" d="M{x1:.0f} {y1:.0f}C{x1:.0f} {y1 + bend:.0f} {x2:.0f} {y2 - bend:.0f} '
        f'{x2:.0f} {y2:.0f}"/>'
    )


def _box(node: _Node) -> str:
    x, y = node.x, _top(node)
    title, second, third = (escape(_cut(line, most)) for line, most in zip(node.lines, _FITS, strict=True))
    mark = _MARKS[node.style]
    body = (
        f"<title>{escape(' / '.join(node.lines))}</title>"
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{_WIDTH}" height="{_HEIGHT}" rx="7"/>'
        f'<text class="stage" x="{x + 11:.0f}" y="{y + 20:.0f}">{title}</text>'
        f'<text class="mark" x="{x + _WIDTH - 11:.0f}" y="{y + 20:.0f}" text-anchor="end">{mark}</text>'
        f'<text x="{x + 11:.0f}" y="{y + 38:.0f}">{second}</text>'
        f'<text class="said" x="{x + 11:.0f}" y="{y + 55:.0f}">{third}</text>'
    )
    group = f'<g class="node {node.style}{" later" if node.later else ""}">{body}</g>'
    return f'<a href="#{node.anchor}">{group}</a>' if node.anchor else group


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
