"""The MLflow registry: a checkpoint becomes a registered version that `mlflow.transformers` loads.

The checkpoint's files are logged as they are, byte for byte, in the layout of MLflow's transformers flavor
(`model/`, `components/tokenizer/`, `MLmodel`), so that the digest of the `model` folder inside the registry
is the checkpoint's own. MLflow's own writer would load the weights and serialise them again.
"""

import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.files import link_or_copy

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

DIGEST_TAG = "regrow.digest"
_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "chat_template.jinja")


class RegistrySpec(BaseModel):
    """Under which name and alias the best candidate is registered."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the registered model")
    alias: str = Field("challenger", description="alias that points at the new version")


class Registered(BaseModel):
    """A version in the registry."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(description="registered model")
    version: str = Field(description="version number that MLflow gave")
    alias: str = Field(description="alias that points at it")
    digest: str = Field(description="digest of the checkpoint")
    run_id: str = Field(description="MLflow run that holds the files and metrics")
    tracking_uri: str = Field(description="MLflow server or database that knows the version")

    @property
    def uri(self) -> str:
        """What `mlflow.transformers.load_model` takes."""
        return f"models:/{self.name}@{self.alias}"


def register(
    checkpoint: Checkpoint,
    spec: RegistrySpec,
    *,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    run_id: str | None = None,
) -> Registered:
    """Log the checkpoint into an MLflow run, make it a version and point the alias at it.

    A version that already holds the same digest is used again: no second copy, the alias moves to it. The
    alias moves last, so a run killed on the way leaves the registry pointing where it did.

    Args:
        checkpoint: what is registered; needs a tokenizer.
        spec: name and alias.
        tags: facts for the version, such as the digests of base, data and configuration.
        metrics: numbers for the run that holds the version.
        run_id: the MLflow run to log into; a new one in the experiment `regrow` if not given.

    Raises:
        InputError: the tracking server cannot be reached or refuses.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient()
    tags = {DIGEST_TAG: checkpoint.digest, **tags}
    try:
        _ensure_model(client, spec.name)
        found = _version_with(client, spec.name, checkpoint.digest)
        run_id = run_id or (found.run_id if found else None) or _new_run(client, spec.name)
        for key, value in metrics.items():
            client.log_metric(run_id, key, value)
        if found is None:
            found = _log_version(client, checkpoint, spec.name, run_id, tags)
        for key, text in tags.items():
            client.set_model_version_tag(spec.name, found.version, key, text)
        client.set_registered_model_alias(spec.name, spec.alias, found.version)
    except MlflowException as error:
        raise InputError(
            f"MLflow at {mlflow.get_tracking_uri()}: {str(error).splitlines()[0]}; check the tracking URI and rights"
        ) from error
    return Registered(
        name=spec.name,
        version=str(found.version),
        alias=spec.alias,
        digest=checkpoint.digest,
        run_id=found.run_id or run_id,
        tracking_uri=mlflow.get_tracking_uri(),
    )


def write_mlflow_model(checkpoint: Checkpoint, out: Path, *, run_id: str | None = None) -> None:
    """Lay the checkpoint out as an MLflow model of the transformers flavor.

    Args:
        checkpoint: the model; its files are linked or copied, never loaded.
        out: an empty folder.
        run_id: the run that the model will belong to.
    """
    import mlflow
    from mlflow.models import Model, infer_signature

    for file in sorted(path for path in checkpoint.folder.rglob("*") if path.is_file()):
        link_or_copy(file, out / "model" / file.relative_to(checkpoint.folder))
    for pattern in _TOKENIZER_FILES:
        for file in checkpoint.folder.glob(pattern):
            target = out / "components" / "tokenizer" / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    model = Model(run_id=run_id, signature=infer_signature("a prompt", "the model's answer"))
    model.add_flavor(
        "transformers",
        transformers_version=version("transformers"),
        code=None,
        task="text-generation",
        instance_type="TextGenerationPipeline",
        source_model_name=f"sha256:{checkpoint.digest}",
        pipeline_model_type=checkpoint.config["architectures"][0],
        model_binary="model",
        components=["tokenizer"],
        tokenizer_type=type(checkpoint.tokenizer()).__name__,
        torch_dtype=str(checkpoint.stored_dtype()),
    )
    mlflow.pyfunc.add_to_model(model, loader_module="mlflow.transformers")
    requirements = [f"{name}=={version(name)}" for name in ("mlflow", "transformers", "torch", "accelerate")]
    (out / "requirements.txt").write_text("\n".join(requirements) + "\n", encoding="utf-8")
    model.save(str(out / "MLmodel"))


def _log_version(
    client: "MlflowClient", checkpoint: Checkpoint, name: str, run_id: str, tags: Mapping[str, str]
) -> Any:
    path = f"models/{checkpoint.digest[:16]}"
    # Beside the checkpoint, not in /tmp: there the weights can be linked instead of copied.
    with tempfile.TemporaryDirectory(dir=checkpoint.folder.parent, prefix=".mlflow-") as scratch:
        write_mlflow_model(checkpoint, Path(scratch), run_id=run_id)
        client.log_artifacts(run_id, scratch, path)
    source = client.get_run(run_id).info.artifact_uri.rstrip("/") + "/" + path
    return client.create_model_version(name, source, run_id=run_id, tags=dict(tags))


def _version_with(client: "MlflowClient", name: str, digest: str) -> Any:
    for found in client.search_model_versions(f"name = '{name}'"):
        if found.tags.get(DIGEST_TAG) == digest and found.status == "READY":
            return found
    return None


def _ensure_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name, description="Pruned and regrown with regrow.")


def _new_run(client: "MlflowClient", name: str) -> str:
    experiment = client.get_experiment_by_name("regrow")
    experiment_id = experiment.experiment_id if experiment else client.create_experiment("regrow")
    run_id: str = client.create_run(experiment_id, run_name=f"register-{name}").info.run_id
    client.set_terminated(run_id)
    return run_id
