"""Checkpoints in the artifact store: the model folder itself, named by its digest."""

import json
import shutil
from typing import Any, ClassVar

from zenml.enums import ArtifactType
from zenml.materializers.base_materializer import BaseMaterializer

from materializers.folders import get_folder, put_folder
from regrow.checkpoint import Checkpoint, manifest
from regrow.errors import RegrowError


class CheckpointMaterializer(BaseMaterializer):
    """Store a checkpoint's files uncompressed beside a manifest; verify the digest on every load."""

    ASSOCIATED_TYPES: ClassVar[tuple[type, ...]] = (Checkpoint,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.MODEL

    def save(self, data: Checkpoint) -> None:
        """Store the folder, and last the manifest that says it is complete."""
        put_folder(data.folder, f"{self.uri}/checkpoint")
        record = {"digest": data.digest, "files": manifest(data.folder)}
        with self.artifact_store.open(f"{self.uri}/manifest.json", "w") as stream:
            stream.write(json.dumps(record, indent=2))

    def load(self, data_type: type[Any]) -> Checkpoint:
        """Return the stored checkpoint.

        Raises:
            RegrowError: the files are not those that were stored.
        """
        with self.artifact_store.open(f"{self.uri}/manifest.json") as stream:
            record = json.loads(stream.read())
        folder = get_folder(f"{self.uri}/checkpoint", sorted(record["files"]), record["digest"])
        checkpoint = Checkpoint.open(folder)
        if checkpoint.digest != record["digest"]:
            found = manifest(folder)
            changed = sorted(
                name
                for name in found.keys() | record["files"].keys()
                if found.get(name) != record["files"].get(name)
            )
            if not self.uri.startswith(str(folder.parent)):
                shutil.rmtree(folder, ignore_errors=True)
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
