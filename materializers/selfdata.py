"""Self-data in the artifact store: the records as Parquet, a sample of rewrites in the dashboard."""

from pathlib import Path
from typing import Any, ClassVar

from zenml.enums import ArtifactType, VisualizationType
from zenml.materializers.base_materializer import BaseMaterializer

from materializers.folders import get_folder, put_folder
from regrow import report
from regrow.errors import RegrowError
from regrow.selfdata import SelfData

FILES = ["records.parquet", "summary.json"]


class SelfDataMaterializer(BaseMaterializer):
    """Store the folder of records; verify the digest on every load."""

    ASSOCIATED_TYPES: ClassVar[tuple[type, ...]] = (SelfData,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA

    def save(self, data: SelfData) -> None:
        """Store the folder, and last the digest that says it is complete."""
        with self.get_temporary_directory(delete_at_exit=True) as scratch:
            folder = data.folder if data.folder.is_dir() else data.as_folder(Path(scratch) / "data").folder
            put_folder(folder, f"{self.uri}/data")
        with self.artifact_store.open(f"{self.uri}/digest", "w") as stream:
            stream.write(data.digest)

    def load(self, data_type: type[Any]) -> SelfData:
        """Return the stored records.

        Raises:
            RegrowError: the records are not those that were stored.
        """
        with self.artifact_store.open(f"{self.uri}/digest") as stream:
            digest = stream.read().strip()
        data = SelfData.open(get_folder(f"{self.uri}/data", FILES, digest))
        if data.digest != digest:
            raise RegrowError(
                f"{self.uri}: stored as {digest[:12]} but is {data.digest[:12]} now; restore the file or "
                "run generate_self_data again"
            )
        return data

    def save_visualizations(self, data: SelfData) -> dict[str, VisualizationType]:
        """Write the page beside the data."""
        path = f"{self.uri}/page.html"
        with self.artifact_store.open(path, "w") as stream:
            stream.write(report.selfdata_page(data.summary, data.rows()[:20]))
        return {path: VisualizationType.HTML}

    def extract_metadata(self, data: SelfData) -> dict[str, Any]:
        """Say how many records were rewritten, in the dashboard."""
        keys = ("records", "acceptance_rate", "tokens", "tokens_per_second", "engine")
        return {"digest": data.digest} | {key: data.summary[key] for key in keys if key in data.summary}

    def compute_content_hash(self, data: SelfData) -> str:
        """The digest of the records."""
        return data.digest
