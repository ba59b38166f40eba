"""Models out of the MLflow registry, as Hugging Face folders."""

import shutil
import tempfile
from pathlib import Path

from regrow.checkpoint import PROVENANCE
from regrow.errors import InputError
from regrow.files import atomic_folder, cache_dir, canonical_digest, link_or_copy
from regrow.source.grammar import Source


def resolve_alias(source: Source) -> str:
    """Return the source of the version that an alias points to now.

    Raises:
        InputError: the registry has no such model or alias.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        found = mlflow.MlflowClient().get_model_version_by_alias(source.name, source.part)
    except MlflowException as error:
        raise InputError(_not_found(source, error)) from None
    return f"mlflow:models:/{source.name}/{found.version}"


def download(source: Source) -> Path:
    """Return a registered version as a model folder, downloaded once per registry and version.

    A version whose files are a Hugging Face folder is taken as it is; one logged by `mlflow.transformers`
    (weights in model/, tokenizer in components/tokenizer/) is put together from its parts.

    Raises:
        InputError: the registry has no such version, or its files are not such a model.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    try:
        if source.part:
            version = client.get_model_version_by_alias(source.name, source.part)
        else:
            version = client.get_model_version(source.name, source.version)
        # The same name and number mean another model in another registry.
        key = canonical_digest([mlflow.get_registry_uri(), version.creation_timestamp, version.source])[:16]
        out = cache_dir() / "registry" / f"{source.name}-{version.version}-{key}"
        if out.is_dir():
            return out
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=out.parent) as scratch:
            uri = f"models:/{source.name}/{version.version}"
            got = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=scratch))
            parts = _parts(source, got)
            with atomic_folder(out, replace=True) as folder:
                for part in parts:
                    for file in sorted([*part.iterdir(), *part.glob(f"{PROVENANCE}/*")]):
                        if file.is_file() and not (target := folder / file.relative_to(part)).exists():
                            link_or_copy(file.resolve(), target)
    except MlflowException as error:
        raise InputError(_not_found(source, error)) from None
    except OSError as error:
        if isinstance(error, shutil.Error | FileNotFoundError):
            raise InputError(f"{source.text}: its files are gone ({error}); register it again") from None
        raise
    return out


def _parts(source: Source, folder: Path) -> list[Path]:
    for weights in (folder, folder / "checkpoint", folder / "model"):
        if (weights / "config.json").is_file():
            tokenizer = folder / "components" / "tokenizer"
            return [weights, tokenizer] if weights != folder and tokenizer.is_dir() else [weights]
    raise InputError(
        f"{source.text}: no config.json among its files; only Hugging Face folders and models logged with "
        "mlflow.transformers can be used"
    )


def _not_found(source: Source, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0]
    return f"{source.text}: not in the MLflow registry ({reason}); check the name and MLFLOW_TRACKING_URI"
