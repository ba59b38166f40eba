"""A source as a material in a statement: what was asked for, and what names its content."""

from regrow.lineage import Resource
from regrow.source.local import Spec, pin


def origin(spec: Spec) -> Resource:
    """Describe where a model or a set comes from.

    Args:
        spec: the source. A file or folder without a digest is digested.

    Returns:
        A resource named `source`, with the source as its URI, and the SHA-256 of the wheel, file or folder or the
        commit on the hub as its digest. The licence, where one is given, is an annotation.

    Raises:
        InputError: the file, folder or alias does not exist.
    """
    pinned = pin(spec)
    parsed = pinned.parsed
    digest = {"gitCommit": parsed.version} if parsed.kind == "hub" else {"sha256": pinned.sha256 or ""}
    if parsed.kind == "mlflow":
        digest = {"mlflowVersion": parsed.version}
    licence = getattr(spec, "license", None)
    name = getattr(spec, "name", None)
    notes = {"source": parsed.kind, "licence": licence, "set": name}
    return Resource(
        name="source",
        digest=digest,
        uri=pinned.source,
        annotations={key: value for key, value in notes.items() if value},
    )
