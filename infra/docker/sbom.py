"""All that an image holds, as a software bill of materials: CycloneDX 1.6."""

import json
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.factory.license import LicenseFactory
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from regrow import __version__


def bill_of_materials(name: str, reference: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of an image.

    Args:
        name: the image's repository.
        reference: with its digest, if it has been pushed.
        found: what `infra.docker.inventory` said in it.
    """
    version = reference.rpartition("@")[2] if "@" in reference else reference.rpartition(":")[2]
    root = Component(name=name, version=version, type=ComponentType.CONTAINER, bom_ref=reference)
    components = [*_system(found), *_debian(found), *_python(found["distributions"])]
    bom = Bom(
        components=components,
        serial_number=uuid5(NAMESPACE_URL, f"regrow-image:{reference}"),
        metadata=BomMetaData(component=root),
    )
    bom.metadata.tools.components.add(
        Component(name="regrow", version=__version__, type=ComponentType.APPLICATION)
    )
    bom.register_dependency(root, components)
    text = JsonV1Dot6(bom).output_as_string()
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert error is None, f"not valid CycloneDX 1.6: {error}"
    document: dict[str, Any] = json.loads(text)
    return document


def _system(found: Mapping[str, Any]) -> Iterable[Component]:
    system = found["system"]
    yield Component(
        name=system["ID"],
        version=system.get("VERSION_ID"),
        type=ComponentType.OPERATING_SYSTEM,
        description=system.get("PRETTY_NAME"),
        bom_ref=f"os:{system['ID']}",
    )


def _debian(found: Mapping[str, Any]) -> Iterable[Component]:
    system = found["system"]
    qualifiers = {"distro": f"{system['ID']}-{system.get('VERSION_ID', '')}"}
    for one in found["debian"]:
        purl = PackageURL(
            "deb", system["ID"], one["name"], one["version"], qualifiers | {"arch": one["architecture"]}
        )
        yield Component(
            name=one["name"],
            version=one["version"],
            type=ComponentType.LIBRARY,
            purl=purl,
            bom_ref=purl.to_string(),
        )


def _python(found: Iterable[Mapping[str, str]]) -> Iterable[Component]:
    licences = LicenseFactory()
    for one in found:
        purl = PackageURL("pypi", None, one["name"], one["version"])
        yield Component(
            name=one["name"],
            version=one["version"],
            type=ComponentType.LIBRARY,
            purl=purl,
            licenses=[licences.make_from_string(one["licence"])] if one["licence"] else [],
            bom_ref=purl.to_string(),
        )
