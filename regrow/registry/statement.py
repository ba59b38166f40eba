"""The registration's own statement (`regrow.lineage`): beside those of the other stages in the version's MLflow run."""

import json
import logging
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from regrow.checkpoint import PROVENANCE, Checkpoint
from regrow.files import canonical_digest
from regrow.registry.names import SCORES_TAG, first_line, is_stated

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

# What a statement tells beside the version's tags: SHA-256 of the model card, and of each document by name.
CARD_KEY = "card"
DOCUMENTS_KEY = "documents"
_log = logging.getLogger(__name__)


def version_digest(name: str, version: str, digest: str) -> str:
    """Return what names a version in a statement: SHA-256 over its model, number and checkpoint."""
    return canonical_digest({"name": name, "version": version, "digest": digest})


def details_of(tags: Mapping[str, str], card: str, documents: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the statement of a registration tells: facts, licences, numbers, run, card and documents.

    Args:
        tags: of the version; those that the statement does not tell (`is_stated`) are left out.
        card: the version's description.
        documents: what is kept in the run, by name.
    """
    told = {key: value for key, value in tags.items() if is_stated(key)}
    kept = {name: canonical_digest(json.loads(document_text(one))) for name, one in documents.items()}
    return told | {CARD_KEY: card_digest(card), DOCUMENTS_KEY: kept}


def card_digest(card: str) -> str:
    """Return the SHA-256 of a model card."""
    return sha256(card.encode()).hexdigest()


def document_text(value: Any) -> str:
    """Return a document as the run keeps it: JSON."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(plain, indent=2, ensure_ascii=False, sort_keys=True)


def state(
    client: "MlflowClient",
    checkpoint: Checkpoint,
    name: str,
    version: str,
    run: str,
    details: Mapping[str, Any],
    *,
    own: str | None = None,
) -> None:
    """State that a checkpoint is a version, and what the version says of itself.

    Args:
        client: of the MLflow server.
        checkpoint: what is registered.
        name: registered model.
        version: its number.
        run: MLflow run that this registration belongs to.
        details: what the version says (`details_of`).
        own: the run that made the version. It gets the statement too, so that it holds all there are of the version.
    """
    from regrow.lineage import describe_value, material, record

    digest = version_digest(name, version, checkpoint.digest)
    materials = [material(checkpoint, "checkpoint")]
    if scores := details.get(SCORES_TAG):
        materials.append(describe_value("scores", scores))
    with tempfile.TemporaryDirectory(prefix="regrow-") as scratch:
        record(
            "register",
            (Path(scratch), [describe_value("version", digest, model=name, number=version)]),
            materials,
            parameters={"name": name},
            details=details,
        )
        folder = str(Path(scratch) / PROVENANCE)
        client.log_artifacts(run, folder, PROVENANCE)
        if own and own != run:
            try:
                client.log_artifacts(own, folder, PROVENANCE)
            except Exception as error:  # the run was deleted, or whatever the artifact store's client raises
                _log.warning("%s: MLflow run %s keeps no statement: %s", name, own, first_line(error))


def state_new(
    client: "MlflowClient",
    checkpoint: Checkpoint,
    name: str,
    version: str,
    run: str,
    details: Mapping[str, Any],
) -> None:
    """State a version that has just been made. It is what counts: a statement that cannot be kept is logged."""
    try:
        state(client, checkpoint, name, version, run, details)
    except Exception as error:  # whatever the artifact store's client raises
        _log.warning("%s version %s: its statement is not kept: %s", name, version, first_line(error))
