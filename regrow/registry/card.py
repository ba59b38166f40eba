"""The model card of a stored or registered model: what it is, where it comes from, under which licences."""

from collections.abc import Mapping, Sequence

from regrow import __version__
from regrow.checkpoint import Checkpoint
from regrow.registry.licences import LicenceChain
from regrow.registry.names import DATA_PREFIX, FACT_TAGS

_NAMES = {
    "regrow.digest": "checkpoint",
    "regrow.candidate": "candidate",
    "regrow.base": "base checkpoint",
    "regrow.pruned": "pruned checkpoint",
    "regrow.plan": "pruning plan",
    "regrow.config": "configuration",
    "regrow.commit": "code commit",
    "regrow.environment": "environment",
    "regrow.scores": "evaluation",
    "regrow.attestation": "attestation",
}


def card(
    checkpoint: Checkpoint,
    licences: LicenceChain,
    *,
    title: str = "A language model",
    tags: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> str:
    """Write a model card in Markdown, without the front matter that `with_front_matter` adds.

    Args:
        checkpoint: the model.
        licences: of the base and the data.
        title: the first line.
        tags: facts of a version; only those that name what it was made from are told.
        metrics: its numbers.
    """
    facts = checkpoint.summary()
    tags = {"regrow.digest": checkpoint.digest, **(tags or {})}
    origin = [(_NAMES[key], tags[key]) for key in FACT_TAGS if key in tags and key in _NAMES]
    origin += [
        (f"data: {key.removeprefix(DATA_PREFIX)}", value)
        for key, value in sorted(tags.items())
        if key.startswith(DATA_PREFIX)
    ]
    parts = [
        f"# {title}",
        f"{facts['architecture']}, {facts['blocks']} blocks, {checkpoint.parameters:,} parameters "
        f"({facts['bytes'] / 2**20:,.1f} MiB). Made with regrow {__version__}.",
        "## Where it comes from",
        _table(("what", "SHA-256 or identifier"), [(what, f"`{value}`") for what, value in origin]),
    ]
    if metrics:
        rows = [(name, f"{value:.4g}") for name, value in sorted(metrics.items())]
        parts += ["## Numbers", _table(("metric", "value"), rows)]
    links = [(one.kind, one.name, one.licence or "unknown", one.terms) for one in licences.links]
    parts += ["## Licences", licences.sentence(), _table(("what", "name", "licence", "terms"), links)]
    return "\n\n".join(parts) + "\n"


def with_front_matter(text: str, licences: LicenceChain) -> str:
    """Add what model hubs read from the head of a card."""
    return (
        f"---\nlicense: {licences.strictest.lower()}\nlibrary_name: transformers\npipeline_tag: text-generation\n"
        f"tags: [regrow]\n---\n\n{text}"
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
