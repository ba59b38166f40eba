"""A checkpoint's chain as an ML bill of materials: CycloneDX 1.6.

The library writes components, hashes, licences and dependencies. The model card (datasets, metrics) it does not know
yet; that part is put into its JSON, and the whole is validated against the standard's schema.
"""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import NAMESPACE_URL, uuid5

from regrow import __version__
from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.lineage.statement import Resource, Statement
from regrow.lineage.store import chain

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

_DATA = ("dataset", "records")
# A percent sign that begins no escape.
_NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def bill_of_materials(checkpoint: Checkpoint, *, also: Iterable[Statement] = ()) -> dict[str, Any]:
    """Return what a checkpoint is made of, as a CycloneDX document.

    Models, sets and sources of its chain are components with their digests, who was made from whom are the
    dependencies; the packages of the environment stand as the digest that the statements hold, not one by one. The
    same checkpoint and chain give the same document, but for the time.

    Args:
        checkpoint: the model, with the statements that it carries.
        also: further statements, such as those about its evaluation.

    Raises:
        InputError: it carries no statement about itself.
    """
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot6

    statements = {one.id: one for one in (*chain(checkpoint.folder), *also)}
    makers = {one.subject.sha256: one for one in statements.values()}
    if checkpoint.digest not in makers:
        raise InputError(
            f"{checkpoint.folder}: carries no statement about itself; a bill of materials is made of these "
            "(regrow audit says what is there)"
        )
    components = _components(checkpoint, statements.values())
    root = components.pop(f"checkpoint:{checkpoint.digest}")
    tool = Component(name="regrow", version=__version__, type=ComponentType.APPLICATION)
    bom = Bom(
        components=components.values(),
        serial_number=uuid5(NAMESPACE_URL, f"regrow:{checkpoint.digest}"),
        metadata=BomMetaData(component=root, tools=[], timestamp=datetime.now(UTC)),
    )
    bom.metadata.tools.components.add(tool)
    known = components | {f"checkpoint:{checkpoint.digest}": root}
    for statement in statements.values():
        if (made := known.get(_key(statement.subject))) is not None:
            bom.register_dependency(
                made, [known[_key(one)] for one in statement.materials if _key(one) in known]
            )
    document: dict[str, Any] = json.loads(JsonV1Dot6(bom).output_as_string())
    document["metadata"]["component"]["modelCard"] = _model_card(checkpoint, statements.values())
    _validate(document)
    return document


def _components(checkpoint: Checkpoint, statements: Iterable[Statement]) -> dict[str, "Component"]:
    """Return the models, sets and sources of a chain, by kind and digest."""
    found: dict[str, Component] = {}
    for statement in statements:
        for one in (statement.subject, *statement.materials):
            if one.name in ("checkpoint", "source", *_DATA):
                facts = {"stage": statement.stage} if one is statement.subject else {}
                key = _key(one)
                if key not in found or facts:
                    found[key] = _component(one, facts | _facts(statement, one))
    found.setdefault(
        f"checkpoint:{checkpoint.digest}",
        _component(Resource(name="checkpoint", digest={"sha256": checkpoint.digest}), {}),
    )
    return found


def _component(one: Resource, facts: Mapping[str, str]) -> "Component":
    from cyclonedx.factory.license import LicenseFactory
    from cyclonedx.model import (
        ExternalReference,
        ExternalReferenceType,
        HashAlgorithm,
        HashType,
        Property,
        XsUri,
    )
    from cyclonedx.model.component import Component, ComponentType

    is_model = one.name == "checkpoint" or (one.name == "source" and "set" not in one.annotations)
    licence = one.annotations.get("licence")
    digest = one.sha256 or next(iter(one.digest.values()), "")
    return Component(
        name=str(one.annotations.get("set") or one.uri or one.name),
        version=digest[:12] or None,
        type=ComponentType.MACHINE_LEARNING_MODEL if is_model else ComponentType.DATA,
        bom_ref=_key(one),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one.sha256)] if one.sha256 else [],
        licenses=[LicenseFactory().make_from_string(str(licence))] if licence else [],
        external_references=[
            ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(_escaped(one.uri)))
        ]
        if one.uri
        else [],
        properties=[Property(name=f"regrow:{name}", value=value) for name, value in facts.items()],
    )


def _escaped(source: str) -> str:
    """Write a source as a URI. A statement has names as they are; web addresses alone are escaped already."""
    is_web = source.startswith(("http://", "https://"))
    has_fragment = is_web or source.startswith("hub:")
    head, mark, fragment = source.partition("#") if has_fragment else (source, "", "")
    if is_web:
        head, fragment = (_NO_ESCAPE.sub("%25", part) for part in (head, fragment))
    safe = "/:@?=&+,;~!$()*" + ("%" if is_web else "")
    return quote(head, safe=safe) + mark + quote(fragment, safe=safe)


def _facts(statement: Statement, one: Resource) -> dict[str, str]:
    """Say of a result how it was made; of a material nothing, its own statement does."""
    if one is not statement.subject:
        return {}
    code = next(
        (x for x in statement.predicate.run_details.builder.builder_dependencies if x.name == "code"), None
    )
    facts = {
        "statement": statement.id,
        "parameters": json.dumps(statement.parameters, sort_keys=True, ensure_ascii=False),
        "commit": code.digest.get("gitCommit", "") if code else "",
        "made": statement.finished,
    }
    return {name: value for name, value in facts.items() if value}


def _model_card(checkpoint: Checkpoint, statements: Iterable[Statement]) -> dict[str, Any]:
    config = checkpoint.config
    sets = {
        _key(one)
        for statement in statements
        if statement.stage == "tune"
        for one in statement.materials
        if one.name in _DATA
    }
    metrics = [
        {"type": name, "value": str(value)}
        for statement in statements
        if statement.stage == "evaluate" and checkpoint.digest in {one.sha256 for one in statement.materials}
        for name, value in statement.details.items()
        if isinstance(value, int | float)
    ]
    card: dict[str, Any] = {
        "modelParameters": {
            "approach": {"type": "self-supervised"},
            "task": "text-generation",
            "architectureFamily": "transformer",
            "modelArchitecture": (config.get("architectures") or [config.get("model_type", "unknown")])[0],
            "datasets": [{"ref": one} for one in sorted(sets)],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        }
    }
    if metrics:
        card["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    return card


def _key(one: Resource) -> str:
    return f"{one.name}:{one.sha256 or one.uri or next(iter(one.digest.values()), '')}"


def _validate(document: dict[str, Any]) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document))
    assert error is None, f"not valid CycloneDX 1.6: {error}"
