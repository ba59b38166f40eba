"""The verdict for people: a message that says what to do, and a page that shows it."""

from html import escape
from typing import Any

from regrow.quality.spec import Finding, GateResult

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --bad: #cf222e; --fair: #9a6700; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid var(--line); }
.good { color: var(--good); } .bad { color: var(--bad); } .fair { color: var(--fair); }
.rows td, .rows th { font-size: .85rem; padding: .2rem .6rem; overflow-wrap: anywhere; }
.rows th, .rows td:nth-child(-n+2) { white-space: nowrap; }
code { font-size: .85em; overflow-wrap: anywhere; } small { opacity: .75; }
"""


def explain(result: GateResult) -> str:
    """Return a message that names each failed expectation, what was found and asked, rows, and the remedy."""
    failed = result.failed()
    if not failed:
        met = f"{result.dataset}: all {len(result.expectations)} expectations met, {result.records} records"
        return "\n".join([met, *_taken_out(result)])
    stops = sum(finding.severity == "stop" for finding in failed)
    verdict = f"the gate is not passed ({stops} expectations failed)" if stops else "passed, with warnings"
    lines = [f"{result.dataset}: {verdict}, {result.records} records, data {result.digest[:12]}"]
    lines += _taken_out(result)
    for finding in failed:
        where = f" [{finding.column}]" if finding.column else ""
        lines.append(f"  {finding.severity}: {finding.name}{where}: {finding.observed}")
        lines.append(f"    asked for: {finding.threshold}")
        lines += [
            f"    row {row['row']}, id {row['id']}: {row['value']!r}: {clip(row['text'], 100)!r}"
            for row in finding.offending
        ]
        lines.append(f"    what to do: {finding.advice}")
    return "\n".join(lines)


def page(result: GateResult) -> str:
    """Return a self-contained HTML page: the verdict, every expectation, offending rows."""
    failed = result.failed()
    stops = [finding for finding in failed if finding.severity == "stop"]
    verdict = f'<span class="bad">not passed: {len(stops)} failed</span>'
    if result.passed:
        verdict = '<span class="good">passed</span>'
        if failed:
            verdict += f', <span class="fair">{len(failed)} warnings</span>'
    body = "".join(_row(finding) for finding in result.expectations)
    reasons = ", ".join(f"{name}: {count}" for name, count in result.removed_by.items())
    taken = f"<p>Taken out before: {result.removed} rows ({escape(reasons)}).</p>" if result.removed else ""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>Gate: {escape(result.dataset)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(result.dataset)}: {verdict}</h1>"
        f"<p>{result.records} records, data <code>{escape(result.digest)}</code>, "
        f"suite for {escape(result.family)} data</p>{taken}"
        "<table><thead><tr><th>Expectation</th><th>Result</th><th>Found</th><th>Asked for</th></tr></thead>"
        f"<tbody>{body}</tbody></table></body></html>"
    )


def _taken_out(result: GateResult) -> list[str]:
    lines = []
    if result.removed:
        reasons = ", ".join(f"{name}: {count}" for name, count in result.removed_by.items())
        lines.append(f"  taken out before: {result.removed} rows ({reasons})")
    if result.quarantine and (result.removed or result.failed()):
        lines.append(f"  every offending row: {result.quarantine}")
    return lines


def clip(text: Any, most: int = 240) -> str:
    """Return a text in one line of at most `most` characters."""
    line = " ".join(str("" if text is None else text).split())
    return line if len(line) <= most else line[: most - 3] + "..."


def _row(finding: Finding) -> str:
    mark = '<span class="good">met</span>'
    if not finding.success:
        mark = f'<span class="{"bad" if finding.severity == "stop" else "fair"}">{finding.severity}</span>'
    where = f" <small>{escape(finding.column)}</small>" if finding.column else ""
    line = (
        f"<tr><td>{escape(finding.name)}{where}<br><small><code>{escape(finding.expectation)}</code></small></td>"
        f"<td>{mark}</td><td>{escape(finding.observed)}</td><td>{escape(finding.threshold)}</td></tr>"
    )
    if finding.success:
        return line
    cells = "".join(
        f"<tr><td>{row['row']}</td><td>{escape(str(row['id']))}</td><td>{escape(str(row['value']))}</td>"
        f"<td>{escape(row['text'])}</td></tr>"
        for row in finding.offending
    )
    head = "<tr><th>row</th><th>id</th><th>value</th><th>text</th></tr>"
    rows = f"<table class='rows'>{head}{cells}</table>" if cells else ""
    return f"{line}<tr><td></td><td colspan='3'>{rows}<p>What to do: {escape(finding.advice)}.</p></td></tr>"
