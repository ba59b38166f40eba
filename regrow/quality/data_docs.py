"""Great Expectations' own page of a validation ("Data Docs"), made to stand alone.

The page that its renderer writes loads style sheets, scripts and pictures from seven hosts. A page of the
gate is opened from an artifact store, often without a network, and must tell nobody that it is: so what
would be fetched or run goes, and one small style sheet takes the place of Bootstrap's.
"""

import re
from html import escape
from typing import Any

from regrow.quality.silence import quiet
from regrow.quality.spec import GateResult

# In this order: what holds others first.
_DROPPED = (
    re.compile(r"<script\b.*?</script>", re.DOTALL | re.IGNORECASE),
    re.compile(r"<style\b.*?</style>", re.DOTALL | re.IGNORECASE),
    re.compile(r"<link\b[^>]*>", re.IGNORECASE),
    re.compile(r"<nav class=\"navbar.*?</nav>\s*</div>\s*</nav>", re.DOTALL),
    re.compile(r"<footer\b.*?</footer>", re.DOTALL | re.IGNORECASE),
    re.compile(r"<img\b[^>]*>", re.IGNORECASE),
    re.compile(r"\son[a-z]+=\"[^\"]*\""),
)
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --bad: #cf222e; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h4, h5, h6 { margin: .4rem 0; font-size: 1.1rem; } .lead { opacity: .75; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem; border-bottom: 1px solid var(--line); }
table table { font-size: .85rem; } td { overflow-wrap: anywhere; } thead[hidden] { display: none; }
.alert { background: var(--soft); padding: .3rem .8rem; border-radius: .3rem; margin-top: 1rem; }
.badge { background: var(--soft); border-radius: .25rem; padding: 0 .3rem; }
.text-success { color: var(--good); } .text-danger { color: var(--bad); } .text-warning { color: #9a6700; }
i.fas { font-style: normal; } i.fa-check-circle::before { content: "\\2713"; }
/* The card with the filter that only worked with scripts, and the heading of the site. */
.sticky > .card:first-child { display: none; }
i.fa-times::before, i.fa-exclamation-triangle::before { content: "\\2717"; }
"""
# The renderer puts values into the page as they are.
_HARMLESS = str.maketrans({"<": "\u2039", ">": "\u203a", "&": "+"})


def page(result: GateResult) -> str:
    """Return Great Expectations' page of the validation that the verdict rests on, as one file."""
    with quiet():
        from great_expectations.core.expectation_validation_result import (
            ExpectationSuiteValidationResultSchema,
        )
        from great_expectations.render.renderer import ValidationResultsPageRenderer
        from great_expectations.render.view import DefaultJinjaPageView

        validation = ExpectationSuiteValidationResultSchema().load(_harmless(result.validation))
        document = ValidationResultsPageRenderer(run_info_at_end=True).render(validation)
        html = DefaultJinjaPageView().render(document)
    return _alone(html, result.dataset)


def _alone(html: str, name: str) -> str:
    """Take out what a page would fetch or run."""
    for dropped in _DROPPED:
        html = dropped.sub("", html)
    # Links lead to other pages of a site that is not here; those within the page stay.
    html = re.sub(r"<a\b[^>]*href=\"(?!#)[^\"]*\"[^>]*>(.*?)</a>", r"\1", html, flags=re.DOTALL)
    html = re.sub(r"<title>.*?</title>", "", html, flags=re.DOTALL)
    html = re.sub(r"\n\s*\n+", "\n", html)
    return html.replace(
        "</head>", f"<title>Data Docs: {escape(name)}</title><style>{_STYLE}</style></head>", 1
    )


def _harmless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _harmless(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_harmless(one) for one in value]
    return value.translate(_HARMLESS) if isinstance(value, str) else value
