"""The registration's own statement (`regrow.lineage`): beside those of the other stages in the version's MLflow run."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from regrow.checkpoint import PROVENANCE, Checkpoint
from regrow.files import canonical_digest
from regrow.registry.names import SCORES_TAG, first_line

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_log = logging.getLogger(__name__)


def version_digest(name: str, version: str, digest: str) -> str:
    """Return what names a version in a statement: SHA-256 over its model, number and checkpoint."""
    return canonical_digest({"name": name, "version": version, "digest": digest})


def state(
    client: "MlflowClient",
    checkpoint: Checkpoint,
    name: str,
    version: str,
    run: str,
    facts: Mapping[str, str],
) -> None:
    """State that a checkpoint is a version, and what the version says of itself.

    Args:
        client: of the MLflow server.
        checkpoint: what is registered.
        name: registered model.
        version: its number.
        run: MLflow run that the version belongs to.
        facts: the version's tags that say what it was made from.
    """
    from regrow.lineage import describe_value, material, record

    digest = version_digest(name, version, checkpoint.digest)
    materials = [material(checkpoint, "checkpoint")]
    if scores := facts.get(SCORES_TAG):
        materials.append(describe_value("scores", scores))
    with tempfile.TemporaryDirectory(prefix="regrow-") as scratch:
        record(
            "register",
            (Path(scratch), [describe_value("version", digest, model=name, number=version)]),
            materials,
            parameters={"name": name},
            details=facts,
        )
        client.log_artifacts(run, str(Path(scratch) / PROVENANCE), PROVENANCE)


def state_new(
    client: "MlflowClient",
    checkpoint: Checkpoint,
    name: str,
    version: str,
    run: str,
    facts: Mapping[str, str],
) -> None:
    """State a version that has just been made. It is what counts: a statement that cannot be kept is logged."""
    try:
        state(client, checkpoint, name, version, run, facts)
    except Exception as error:  # whatever the artifact store's client raises
        _log.warning("%s version %s: its statement is not kept: %s", name, version, first_line(error))
