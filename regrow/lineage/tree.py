"""An audit as text: the chain as a tree, then what failed and what was left open."""

from collections.abc import Iterator

from regrow.lineage.facts import code, facts
from regrow.lineage.result import AuditResult, Link, Origin

_SIGNED = {"valid": "signature valid", "invalid": "SIGNATURE INVALID"}
_SIGNED |= {"unsigned": "unsigned", "unchecked": "signature not checked"}


def tree(result: AuditResult) -> str:
    """Write an audit for a terminal."""
    verdict = "verified" if result.verified else f"NOT VERIFIED: {len(result.failures)} failed"
    lines = [
        f"{result.target}: {verdict}",
        f"{result.kind} {result.digest}, {_SIGNED[result.signature]}",
        "",
    ]
    by_id = {link.statement: link for link in result.chain}
    shown: set[str] = set()
    for link in result.chain:
        if link.role != "later" and link.statement not in shown:
            lines += _branch(link, by_id, shown, "")
    later = [link for link in result.chain if link.role == "later"]
    if later:
        lines += ["", "Stated afterwards:"]
        lines += [f"  {_line(link)}" for link in later]
    if result.failures:
        lines += ["", "Failed:"]
        for one in result.failures:
            lines += [
                f"  {one.what}: {one.where}",
                f"    expected {one.expected}",
                f"    found    {one.found}",
            ]
    if any(one.what != "digest" for one in result.checks):
        lines += ["", "Checked besides:"]
        lines += [
            f"  {one.what}: {one.outcome}{f' ({one.detail})' if one.detail else ''}"
            for one in result.checks
            if one.what != "digest"
        ]
    if result.not_checked:
        lines += ["", "Not checked:"]
        lines += [f"  {one}" for one in result.not_checked]
    return "\n".join(lines)


def _branch(link: Link, by_id: dict[str, Link], shown: set[str], indent: str) -> Iterator[str]:
    """Yield a link and what it was made from; a link that was shown before is only named."""
    yield f"{indent}{_line(link)}"
    inner = f"{indent}    "
    if link.statement in shown:
        if link.materials:
            yield f"{inner}(as above)"
        return
    shown.add(link.statement)
    said = ", ".join(f"{name} {value}" for name, value in facts(link).items())
    if said:
        yield f"{inner}{said}"
    yield f"{inner}{link.finished[:19].replace('T', ' ')} UTC, {code(link)}"
    for one in link.materials:
        if one.statement in by_id:
            yield from _branch(by_id[one.statement], by_id, shown, inner)
        else:
            yield f"{inner}{_leaf(one)}"


def _line(link: Link) -> str:
    mark = "" if link.sound else "  <- DOES NOT VERIFY"
    return f"{link.stage} -> {link.kind} {link.subject[:12]} ({_SIGNED[link.signature]}){mark}"


def _leaf(one: Origin) -> str:
    digest = one.digest.removeprefix("sha256:")[:24]
    if one.kind == "missing":
        return f"{one.name} {digest}: STATEMENT MISSING"
    return f"{one.name} {one.uri or ''} {digest}".replace("  ", " ")
