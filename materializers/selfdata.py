"""Self-data in the artifact store: the records as Parquet, a sample of rewrites in the dashboard."""

import json
from pathlib import Path
from typing import Any, ClassVar

from zenml.enums import ArtifactType, VisualizationType
from zenml.materializers.base_materializer import BaseMaterializer

from materializers.folders import forget_folder, get_folder, is_local, manifest_of, put_folder, wanted
from regrow import report
from regrow.checkpoint import PROVENANCE
from regrow.errors import RegrowError
from regrow.files import canonical_digest
from regrow.selfdata import SelfData
from regrow.transfer import Wanted

FILES = ["records.parquet", "summary.json"]


class SelfDataMaterializer(BaseMaterializer):
    """Store the folder of records with its statements; verify the digest on every load."""

    ASSOCIATED_TYPES: ClassVar[tuple[type, ...]] = (SelfData,)
    ASSOCIATED_ARTIFACT_TYPE: ClassVar[ArtifactType] = ArtifactType.DATA

    def save(self, data: SelfData) -> None:
        """Store the folder, and last the digest that says it is complete."""
        with self.get_temporary_directory(delete_at_exit=True) as scratch:
            folder = data.folder if data.folder.is_dir() else data.as_folder(Path(scratch) / "data").folder
            put_folder(folder, f"{self.uri}/data", self.artifact_store)
            files = manifest_of(folder)
        with self.artifact_store.open(f"{self.uri}/manifest.json", "w") as stream:
            stream.write(json.dumps({"digest": data.digest, "files": files}, indent=2))
        with self.artifact_store.open(f"{self.uri}/digest", "w") as stream:
            stream.write(data.digest)

    def load(self, data_type: type[Any]) -> SelfData:
        """Return the stored records.

        Raises:
            RegrowError: the records are not those that were stored.
        """
        with self.artifact_store.open(f"{self.uri}/digest") as stream:
            digest = stream.read().strip()
        files = self._files()
        # The same records may have come about in two ways: the statements are part of what is kept.
        stated = {name: one.sha256 for name, one in files.items() if name not in FILES}
        key = canonical_digest([digest, stated]) if stated else digest
        data = SelfData.open(get_folder(f"{self.uri}/data", files, key, self.artifact_store).folder)
        if data.digest != digest and not is_local(self.uri):
            forget_folder(key)
            data = SelfData.open(get_folder(f"{self.uri}/data", files, key, self.artifact_store).folder)
        if data.digest != digest:
            raise RegrowError(
                f"{self.uri}: stored as {digest[:12]} but is {data.digest[:12]} now; restore the file or "
                "run generate_self_data again"
            )
        return data

    def _files(self) -> dict[str, Wanted]:
        """Return the files of the set and of its statements, relative to its folder."""
        if self.artifact_store.exists(f"{self.uri}/manifest.json"):
            with self.artifact_store.open(f"{self.uri}/manifest.json") as stream:
                return wanted(json.loads(stream.read())["files"])
        # Of an older regrow.
        files = dict.fromkeys(FILES, Wanted())
        place = f"{self.uri}/data/{PROVENANCE}"
        if self.artifact_store.exists(place):
            names = sorted(map(str, self.artifact_store.listdir(place)))
            files |= {f"{PROVENANCE}/{name}": Wanted() for name in names}
        return files

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
