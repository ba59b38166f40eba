"""What differs between two versions: plan, data, recipe, scores, environment, code, licences."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from regrow.errors import InputError
from regrow.registry.versions import Version, document_of, params_of, plan_of, scores_of

if TYPE_CHECKING:
    from regrow.evaluate.paired import Comparison
    from regrow.evaluate.scores import Scores

# Parameters of a run that say what came out rather than what was asked for.
_RESULTS = ("digest", "data", "model", "passed")


class Change(BaseModel):
    """One thing that differs."""

    model_config = ConfigDict(frozen=True)

    key: str = Field(description="what")
    a: Any = Field(description="in the first version; null: not there")
    b: Any = Field(description="in the second")


class Part(BaseModel):
    """One respect in which two versions may differ."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="model, plan, data, recipe, scores, environment, code or licence")
    result: Literal["same", "different", "unknown"] = Field(description="unknown: a version does not say")
    changes: tuple[Change, ...] = Field((), description="what differs, as far as it is known")
    note: str = Field("", description="what could not be compared, and why; or the verdict on scores")


class Difference(BaseModel):
    """Two versions, part by part."""

    model_config = ConfigDict(frozen=True)

    a: str = Field(description="the first version")
    b: str = Field(description="the second version")
    parts: tuple[Part, ...] = Field(description="in the order of the work")

    @property
    def same(self) -> bool:
        """Whether nothing is known to differ."""
        return all(part.result != "different" for part in self.parts)


def diff(a: Version, b: Version) -> Difference:
    """Compare two versions.

    Whether something differs is said by the digests in the tags; what differs, by the documents that the versions'
    runs hold, as far as they do.

    Args:
        a: the first version, the one that is compared with.
        b: the second.
    """
    parts = (
        _by_tags("model", a, b, ("regrow.digest", "regrow.candidate", "regrow.base", "regrow.pruned")),
        _detailed("plan", a, b, "regrow.plan", _plan),
        _mapped("data", a.data, b.data),
        _detailed("recipe", a, b, "regrow.config", _recipe),
        _scores(a, b),
        _detailed("environment", a, b, "regrow.environment", lambda one: document_of(one, "environment")),
        _by_tags("code", a, b, ("regrow.commit",)),
        _licence(a, b),
    )
    return Difference(a=a.label, b=b.label, parts=parts)


def paired(a: Version, b: Version) -> "tuple[Scores, Scores, Comparison]":
    """Compare two versions' scores item by item: by how much b is better than a.

    Raises:
        InputError: the scores of one are not stored, or the two were not evaluated alike.
    """
    from regrow.evaluate.paired import compare

    found = [scores_of(one) for one in (a, b)]
    for version, scores in zip((a, b), found, strict=True):
        if scores is None:
            raise InputError(
                f"{version.label}: its run holds no scores by item; register it with --scores, or run the pipeline"
            )
    first, second = (
        one.model_copy(update={"name": version.label})
        for one, version in zip(found, (a, b), strict=True)
        if one is not None
    )
    return first, second, compare(second, first)


def _by_tags(name: str, a: Version, b: Version, keys: tuple[str, ...]) -> Part:
    one, other = ({key: version.tags[key] for key in keys if key in version.tags} for version in (a, b))
    return _mapped(name, one, other)


def _mapped(name: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Part:
    """Compare two mappings of which each key matters."""
    if not a and not b:
        return Part(name=name, result="unknown", note="neither version says")
    if not a or not b:
        who = "first" if not a else "second"
        return Part(
            name=name, result="unknown", changes=_changes(a, b), note=f"the {who} version does not say"
        )
    changes = _changes(a, b)
    return Part(name=name, result="different" if changes else "same", changes=changes)


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Change, ...]:
    keys = [key for key in sorted({*a, *b}) if a.get(key) != b.get(key)]
    return tuple(Change(key=key, a=a.get(key), b=b.get(key)) for key in keys)


def _detailed(
    name: str, a: Version, b: Version, tag: str, details: Callable[[Version], Mapping[str, Any] | None]
) -> Part:
    """Compare by a digest; where it differs or is not there, say what differs."""
    part = _by_tags(name, a, b, (tag,))
    if part.result == "same":
        return part
    one, other = details(a), details(b)
    if not one or not other:
        lost = " and ".join(version.label for version, found in ((a, one), (b, other)) if not found)
        note = "; ".join(filter(None, (part.note, f"what it was is not stored for {lost}")))
        return part.model_copy(update={"note": note})
    changes = _changes(_flat(one), _flat(other))
    if part.result == "different":
        return Part(name=name, result="different", changes=changes or part.changes)
    return Part(name=name, result="different" if changes else "same", changes=changes)


def _plan(version: Version) -> dict[str, Any] | None:
    from pydantic import ValidationError

    from regrow.prune import PrunePlan

    found = plan_of(version)
    if found is None:
        return None
    try:
        plan = PrunePlan.model_validate(found)
    except ValidationError:
        return found
    return {"source_digest": plan.source_digest, "width_criterion": plan.width_criterion, **plan.summary()}


def _recipe(version: Version) -> dict[str, Any] | None:
    """The configuration; where it was not kept, the parameters that the run logged."""
    if found := document_of(version, "config"):
        return dict(found)
    params = params_of(version)
    return {key: value for key, value in params.items() if key.rpartition(".")[2] not in _RESULTS} or None


def _scores(a: Version, b: Version) -> Part:
    """Metrics of the versions, each task's score, and what the comparison by item says."""
    one, other = dict(a.metrics), dict(b.metrics)
    note = ""
    try:
        first, second, comparison = paired(a, b)
    except InputError as error:
        note = f"not compared by item: {error}"
    else:
        for scores, into in ((first, one), (second, other)):
            into.update({task: score.value for task, score in scores.scores.items()})
            if scores.perplexity is not None:
                into["perplexity"] = scores.perplexity
        note = comparison.verdict
    part = _mapped("scores", one, other)
    return part.model_copy(update={"note": "; ".join(filter(None, (part.note, note)))})


def _licence(a: Version, b: Version) -> Part:
    one, other = (
        {f"{link.kind} {link.name}": link.licence or "unknown" for link in version.licences.links}
        | ({"most restrictive": version.licences.strictest} if version.licences.links else {})
        for version in (a, b)
    )
    return _mapped("licence", one, other)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; a list's entries by their name, where they have one, else by their number."""
    flat: dict[str, Any] = {}
    if isinstance(value, Mapping):
        pairs = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, Mapping | list) for item in value):
        named = all(isinstance(item, Mapping) and item.get("name") for item in value)
        pairs = [(str(item["name"]) if named else str(i), item) for i, item in enumerate(value)]
    else:
        return {prefix.removesuffix("."): value}
    for key, item in pairs:
        flat |= _flat(item, f"{prefix}{key}.")
    return flat
