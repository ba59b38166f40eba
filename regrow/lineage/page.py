"""An audit as a page: one file, no network, readable on paper."""

import json
from pathlib import Path
from typing import Any

from regrow import __version__
from regrow.lineage.facts import code, facts
from regrow.lineage.graph import draw
from regrow.lineage.result import AuditResult, Link

_TEMPLATES = Path(__file__).parent / "templates"
_STYLE = Path(__file__).parents[1] / "report" / "templates"


def page(result: AuditResult) -> str:
    """Return an audit as HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader([_TEMPLATES, _STYLE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("audit.html.jinja").render(
        title="Audit",
        version=__version__,
        result=result,
        graph=Markup(draw(result)),  # noqa: S704 - our own markup, texts in it are escaped
        links=[_shown(link) for link in result.chain],
        folder_checks=[one for one in result.checks if one.what != "digest"],
    )
    return f"{text}\n"


def _shown(link: Link) -> dict[str, Any]:
    return {
        "link": link,
        "facts": facts(link),
        "code": code(link),
        "packages": _packages(link),
        "specification": json.dumps(
            {"parameters": link.parameters, "details": link.details}, indent=2, ensure_ascii=False
        ),
    }


def _packages(link: Link) -> str:
    versions = link.builder.get("version", {})
    return ", ".join(f"{name} {value}" for name, value in versions.items() if name != "regrow")
