"""What is worth saying of a link in one line."""

from collections.abc import Iterator, Mapping
from typing import Any

from regrow.lineage.result import Link

# What readers ask of each stage, by name of the parameter or detail; others follow where there is room.
_ASKED = {
    "load_model": ("source", "revision", "license"),
    "importance": ("measure", "criterion", "samples", "max_tokens", "texts"),
    "prune": ("criterion", "blocks", "drop", "depth", "width_criterion", "seed"),
    "distill": ("engine", "seed", "template", "family", "records", "acceptance_rate", "decisions"),
    "validate": ("suite", "passed", "records", "before"),
    "tune": ("type", "method", "data", "epochs", "learning_rate", "rank", "seed"),
    "merge": ("method", "weights", "t", "density", "seed"),
    "evaluate": ("tasks", "suite", "recovery", "perplexity"),
    "shift": ("records", "closer", "rewrite_perplexity", "reference_perplexity", "similarity"),
    "drift": ("questions", "agreement", "kl", "similarity", "same_answers"),
    "register": ("name", "version", "alias"),
    "promote": ("name", "version", "to", "from", "forced", "reason"),
}
_MOST = 6
_LONGEST = 60


def facts(link: Link) -> dict[str, str]:
    """Return the parameters and details of a link that tell most, as short texts by name."""
    flat = dict(_flat(link.parameters)) | dict(_flat(link.details))
    asked = [name for name in _ASKED.get(link.stage, ()) if name in flat]
    chosen = [*asked, *(name for name in flat if name not in asked)][:_MOST]
    return {name: flat[name] for name in chosen}


def code(link: Link) -> str:
    """Return which code built it, in short."""
    version = link.builder.get("version", {}).get("regrow", "?")
    for one in link.builder.get("builderDependencies", []):
        if one.get("name") == "code":
            commit = str(one.get("digest", {}).get("gitCommit", ""))[:12]
            changed = " with changes" if one.get("annotations", {}).get("dirty") else ""
            return f"regrow {version}, commit {commit}{changed}"
    return f"regrow {version}"


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if value is None or value in ({}, [], ""):
            continue
        text = _text(value)
        yield name, text if len(text) <= _LONGEST else f"{text[: _LONGEST - 2]} …"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items() if one is not None)
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
