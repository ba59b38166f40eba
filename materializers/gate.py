"""A gate's verdict in the artifact store: JSON and the quarantine file; two pages in the dashboard."""

from pathlib import Path
from typing import Any, ClassVar

from zenml.enums import ArtifactType, VisualizationType
from zenml.materializers.pydantic_materializer import PydanticMaterializer

from materializers.folders import get_folder, put_folder
from regrow import quality
from regrow.files import link_or_copy, sha256_of
from regrow.quality import GateResult
from regrow.transfer import Wanted

_QUARANTINE = "quarantine.jsonl"


class GateMaterializer(PydanticMaterializer):
    """Store the verdict with every offending row; draw it as our page and as Data Docs."""

    ASSOCIATED_TYPES: ClassVar[tuple[type, ...]] = (GateResult,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA_ANALYSIS

    def save(self, data: GateResult) -> None:
        """Store the verdict and, beside it, the quarantine file."""
        super().save(data)
        if data.quarantine is None:
            return
        with self.get_temporary_directory(delete_at_exit=True) as folder:
            link_or_copy(data.quarantine, Path(folder) / _QUARANTINE)
            put_folder(Path(folder), f"{self.uri}/rows", self.artifact_store)
        with self.artifact_store.open(f"{self.uri}/rows.sha256", "w") as stream:
            stream.write(sha256_of(data.quarantine))

    def load(self, data_type: type[Any]) -> GateResult:
        """Return the verdict; its quarantine file is a local one."""
        result: GateResult = super().load(data_type)
        if not self.artifact_store.exists(f"{self.uri}/rows.sha256"):
            return result
        with self.artifact_store.open(f"{self.uri}/rows.sha256") as stream:
            key = stream.read().strip()
        files = {_QUARANTINE: Wanted(sha256=key)}
        found = get_folder(f"{self.uri}/rows", files, key, self.artifact_store)
        return result.model_copy(update={"quarantine": found.folder / _QUARANTINE})

    def save_visualizations(self, data: GateResult) -> dict[str, VisualizationType]:
        """Write both pages beside the JSON."""
        drawn = {}
        for name, text in quality.pages(data).items():
            if name.endswith(".html"):
                path = f"{self.uri}/{name}"
                with self.artifact_store.open(path, "w") as stream:
                    stream.write(text)
                drawn[path] = VisualizationType.HTML
        return drawn

    def extract_metadata(self, data: GateResult) -> dict[str, Any]:
        """Say in the dashboard how the verdict went."""
        return {
            "passed": data.passed,
            "records": data.records,
            "removed": data.removed,
            "failed_expectations": [finding.name for finding in data.failed()],
        }
