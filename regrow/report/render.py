"""From values to a page: the templates, and what they may call."""

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow import __version__
from regrow.report import numbers

if TYPE_CHECKING:
    from jinja2 import Environment

_SHOWN_TEXT = 700


def render(template: str, *, figures: Mapping[str, str], **values: Any) -> str:
    """Fill a template.

    Args:
        template: name of the file in `templates`.
        figures: SVG by name. They are our own markup; everything else is escaped.
        values: what the template names.
    """
    from markupsafe import Markup

    drawn = {name: Markup(svg) for name, svg in figures.items()}  # noqa: S704
    page = _environment().get_template(template)
    return page.render(figures=drawn, version=__version__, **values) + "\n"


def as_yaml(settings: Mapping[str, Any]) -> str:
    """Write settings as YAML."""
    import yaml

    plain = json.loads(json.dumps(settings, default=str))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def unbroken(text: str) -> str:
    """Keep numbers and their units on one line."""
    return text.replace(" %", f"{numbers.NO_BREAK}%")


@lru_cache(maxsize=1)
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    def short(text: object) -> str:
        plain = str(text or "").strip()
        return plain if len(plain) <= _SHOWN_TEXT else plain[:_SHOWN_TEXT].rstrip() + " …"

    # Templates refuse names they do not know, so that a misspelt one cannot pass for a missing part.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def pair(row: Mapping[str, Any], name: str, value: str) -> tuple[str, str]:
        return str(row[name]), str(row.get(value) or "")

    environment.filters |= {
        "short": short,
        "pair": pair,
        "percent": numbers.percent,
        "duration": numbers.duration,
    }
    return environment
