"""The data gate's verdicts: of the sets that a version names, and of those that its statements say it was tuned on."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from regrow.promotion.gate import Gate

if TYPE_CHECKING:
    from regrow.promotion.evidence import Carried
    from regrow.promotion.facts import VersionFacts


def data_gates(facts: "VersionFacts", carried: "Carried | None", *, required: bool) -> Iterator[Gate]:
    """Ask whether every set passed.

    Args:
        facts: the version.
        carried: what its folder carries; None if that cannot be read.
        required: whether a verdict that nothing states has passed.
    """
    sets = facts.data()
    unnamed = carried.trained_on() - set(sets.values()) if carried else set()
    if not sets and not unnamed:
        yield Gate(
            name="data gate",
            passed=False,
            observed="the version names no data",
            asked="a verdict on every set that it was tuned on",
        )
    for dataset, digest in sorted(sets.items()):
        observed, good = _named(facts, carried, dataset, digest, required=required)
        asked = f"passed on {digest[:16]}"
        yield Gate(name=f"data gate: {dataset}", passed=good, observed=observed, asked=asked)
    for digest in sorted(unnamed):
        # Of an earlier life of the base, or somebody took the tag away.
        good = any(one.get("passed") is True for one in carried.verdicts(digest)) if carried else False
        yield Gate(
            name=f"data gate: {digest[:12]}",
            passed=good,
            observed="passed, as stated; the version does not name it" if good else "no verdict is stated",
            asked="passed: the statements say that it was tuned on this set",
        )


def _named(
    facts: "VersionFacts", carried: "Carried | None", dataset: str, digest: str, *, required: bool
) -> tuple[str, bool]:
    """Return what is known of a set that the version names, and whether it passed."""
    if (found := facts.data_gate(dataset)) is None:
        return "no verdict in the version's MLflow run", False
    verdict, named = found
    if verdict.digest != digest:
        return f"a verdict on other data, {verdict.digest[:16]}", False
    if not verdict.passed:
        return f"not passed: {', '.join(one.name for one in verdict.failed())}", False
    observed = f"passed, {verdict.records} records"
    told = carried.verdicts(digest) if carried else []
    if not told:
        return f"{observed}, not attested", not required
    if named not in {one.get("verdict") for one in told}:
        return f"{observed}, but that is not the verdict that was stated", False
    return observed, True
