"""Figures drawn by matplotlib without a display, as SVG that can stand inside a page.

Text stays text, so that it can be searched, read aloud and set in the page's own font.
"""

import html
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, RULE = "#1b1f24", "#5b6570", "#d5dae0"
# Inches. The page shows a figure as wide as its text, so this decides how large letters are there and in print.
WIDTH = 9.0
_STYLE: dict[str, Any] = {
    "font.family": ["sans-serif"],
    "font.size": 9.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "regrow",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.handlelength": 2.8,
    "figure.constrained_layout.use": True,
}


@contextmanager
def canvas(height: float, width: float = WIDTH) -> Iterator[tuple["Figure", Callable[[str], str]]]:
    """Yield an empty figure of so many inches, and the function that turns it into SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        # Not pyplot: it keeps figures alive, and would choose a backend for the whole process.
        figure = Figure(figsize=(width, height))
        yield figure, lambda text: _svg(figure, text)


def legend_columns(names: Sequence[str], handle: float = 2.8) -> int:
    """Return how many entries of a legend stand side by side in a figure of the usual width."""
    # In points: a letter, the handle, and the space around.
    wide = [5.3 * len(name) + 9.5 * handle + 26 for name in names]
    for columns in range(len(names), 1, -1):
        rows = -(-len(names) // columns)
        if sum(max(wide[i : i + rows]) for i in range(0, len(wide), rows)) <= 72 * WIDTH:
            return columns
    return 1


def legend_height(names: Sequence[str], handle: float = 2.8) -> float:
    """Return the inches that a legend takes beyond its first row."""
    return 0.2 * (-(-len(names) // legend_columns(names, handle)) - 1)


def _svg(figure: "Figure", text: str) -> str:
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Names must differ between the plots of one page.
    own = f"f{crc32(svg.encode()):x}"
    svg = re.sub(r'\bid="', f'id="{own}-', svg)
    svg = re.sub(r"url\(#", f"url(#{own}-", svg)
    svg = re.sub(r'href="#', f'href="#{own}-', svg)
    label = html.escape(text, quote=True)
    head = f'<svg role="img" aria-label="{label}" class="figure"'
    svg = re.sub(r"^<svg", head, svg, count=1)
    return re.sub(r">", f"><title>{html.escape(text)}</title>", svg, count=1)
