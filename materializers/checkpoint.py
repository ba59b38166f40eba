"""Checkpoints in the artifact store: the model folder itself, named by its digest, and loadable by MLflow.

What is stored is an MLflow model (`regrow.registry.layout`), so that a version in the MLflow registry can point at it
and the weights need no second copy.
"""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from zenml.enums import ArtifactType
from zenml.materializers.base_materializer import BaseMaterializer

from materializers.folders import forget_folder, get_folder, is_local, manifest_of, put_folder, wanted
from regrow.checkpoint import PROVENANCE, Checkpoint, manifest
from regrow.errors import InputError, RegrowError
from regrow.files import canonical_digest
from regrow.registry import write_around

_log = logging.getLogger(__name__)


class CheckpointMaterializer(BaseMaterializer):
    """Store a checkpoint's files uncompressed beside a manifest; verify the digest on every load."""

    ASSOCIATED_TYPES: ClassVar[tuple[type, ...]] = (Checkpoint,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.MODEL

    def save(self, data: Checkpoint) -> None:
        """Store the folder, then what makes an MLflow model of it, and last the manifest that says it is complete."""
        put_folder(data.folder, f"{self.uri}/checkpoint", self.artifact_store)
        with tempfile.TemporaryDirectory(prefix="regrow-") as scratch:
            try:
                write_around(data, Path(scratch))
            except InputError as error:  # no tokenizer: a model all the same, which cannot be registered
                _log.warning("%s; it is stored without being an MLflow model", error)
            else:
                put_folder(Path(scratch), self.uri, self.artifact_store)
        record = {
            "digest": data.digest,
            "files": manifest(data.folder),
            "provenance": manifest_of(data.folder, data.folder / PROVENANCE),
        }
        with self.artifact_store.open(f"{self.uri}/manifest.json", "w") as stream:
            stream.write(json.dumps(record, indent=2))

    def load(self, data_type: type[Any]) -> Checkpoint:
        """Return the stored checkpoint, with its attestation chain.

        Raises:
            RegrowError: the files are not those that were stored.
        """
        with self.artifact_store.open(f"{self.uri}/manifest.json") as stream:
            record = json.loads(stream.read())
        # The same model may have come about in two ways.
        provenance = record.get("provenance") or {}
        key = canonical_digest([record["digest"], provenance]) if provenance else record["digest"]
        files = wanted(record["files"] | provenance)
        found = get_folder(f"{self.uri}/checkpoint", files, key, self.artifact_store)
        # What has just arrived was hashed on the way; what lay here is hashed now.
        checkpoint = Checkpoint.open(found.folder, known=found.known)
        changed = _changed(checkpoint, record, found.known)
        if changed and not is_local(self.uri):
            _log.warning(
                "%s: damaged in this machine's cache (%s); fetched again", self.uri, ", ".join(changed)
            )
            forget_folder(key)
            found = get_folder(f"{self.uri}/checkpoint", files, key, self.artifact_store)
            checkpoint = Checkpoint.open(found.folder, known=found.known)
            changed = _changed(checkpoint, record, found.known)
        if changed:
            raise RegrowError(
                f"{self.uri}: stored as {record['digest'][:12]} but is {checkpoint.digest[:12]} now; "
                f"changed: {', '.join(changed)}. Restore the files or run the step that made them again"
            )
        return checkpoint

    def extract_metadata(self, data: Checkpoint) -> dict[str, Any]:
        """Say what the model is, in the dashboard."""
        return data.summary()

    def compute_content_hash(self, data: Checkpoint) -> str:
        """The digest: equal weights and files are the same input to the next step."""
        return data.digest


def _changed(checkpoint: Checkpoint, record: dict[str, Any], known: dict[str, str]) -> list[str]:
    """Return the files that are not what was stored."""
    provenance = record.get("provenance") or {}
    now = manifest_of(checkpoint.folder, checkpoint.folder / PROVENANCE)
    changed = sorted(name for name in provenance if now.get(name) != provenance[name])
    if checkpoint.digest != record["digest"]:
        files, found = record["files"], manifest(checkpoint.folder, known)
        changed += sorted(name for name in found.keys() | files if found.get(name) != files.get(name))
    return changed
