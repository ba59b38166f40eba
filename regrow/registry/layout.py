"""A checkpoint's folder as an MLflow model of the transformers flavor, without touching a byte of it.

    MLmodel                   what MLflow reads: flavor, signature, input example
    README.md                 model card with the licence chain
    requirements.txt          python_env.yaml, conda.yaml: what loading needs
    input_example.json        serving_input_example.json
    components/tokenizer/     copies of the tokenizer's files, where MLflow looks for them
    checkpoint/               the checkpoint, byte for byte

MLflow's own writer would load the weights and serialise them again.
"""

import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

from regrow.checkpoint import Checkpoint
from regrow.files import link_or_copy
from regrow.registry.card import card as write_card
from regrow.registry.card import with_front_matter
from regrow.registry.licences import LicenceChain, licences_of
from regrow.registry.names import CHECKPOINT

MODEL_FILE = "MLmodel"
_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "chat_template.jinja")
_PACKAGES = ("mlflow", "transformers", "torch", "accelerate")
_EXAMPLE = ["Which gas do plants take in from the air?"]
_MAX_NEW_TOKENS = 256


def write_mlflow_model(
    checkpoint: Checkpoint,
    out: Path,
    *,
    run_id: str | None = None,
    card: str | None = None,
    licences: LicenceChain | None = None,
) -> None:
    """Lay the checkpoint out as an MLflow model of the transformers flavor.

    Args:
        checkpoint: the model; its weights are linked or copied, never loaded.
        out: an empty folder.
        run_id: the run that the model will belong to.
        card: the model card; one that says what the folder alone tells, if not given.
        licences: of base and data; those that the folder tells, if not given.

    Raises:
        InputError: the checkpoint has no tokenizer.
    """
    for file in sorted(path for path in checkpoint.folder.rglob("*") if path.is_file()):
        target = out / CHECKPOINT / file.relative_to(checkpoint.folder)
        if file.suffix == ".safetensors":
            link_or_copy(file, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    write_around(checkpoint, out, run_id=run_id, card=card, licences=licences)


def write_around(
    checkpoint: Checkpoint,
    out: Path,
    *,
    run_id: str | None = None,
    card: str | None = None,
    licences: LicenceChain | None = None,
) -> None:
    """Write what makes `out` an MLflow model but the checkpoint itself, `MLmodel` last; as `write_mlflow_model`."""
    import mlflow
    from mlflow.models import Model, infer_signature

    tokenizer = type(checkpoint.tokenizer()).__name__
    for pattern in _TOKENIZER_FILES:
        for file in checkpoint.folder.glob(pattern):
            target = out / "components" / "tokenizer" / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    licences = licences or licences_of(checkpoint.folder)
    card = card or write_card(checkpoint, licences)
    _write(out / "README.md", with_front_matter(card, licences))
    _write_requirements(out)
    _write(out / "input_example.json", json.dumps(_EXAMPLE))
    _write(out / "serving_input_example.json", json.dumps({"inputs": _EXAMPLE}, indent=2))
    model = Model(
        run_id=run_id,
        model_uuid=checkpoint.digest[:32],
        signature=infer_signature(_EXAMPLE, ["An answer."], params={"max_new_tokens": _MAX_NEW_TOKENS}),
        saved_input_example_info={
            "artifact_path": "input_example.json",
            "serving_input_path": "serving_input_example.json",
            "type": "json_object",
        },
        metadata={"regrow.digest": checkpoint.digest, "licence": licences.strictest},
        model_size_bytes=checkpoint.summary()["bytes"],
    )
    model.add_flavor(
        "transformers",
        transformers_version=version("transformers"),
        code=None,
        task="text-generation",
        instance_type="TextGenerationPipeline",
        source_model_name=f"sha256:{checkpoint.digest}",
        pipeline_model_type=checkpoint.config["architectures"][0],
        model_binary=CHECKPOINT,
        components=["tokenizer"],
        tokenizer_type=tokenizer,
        torch_dtype=str(checkpoint.stored_dtype()),
    )
    mlflow.pyfunc.add_to_model(
        model, loader_module="mlflow.transformers", conda_env="conda.yaml", python_env="python_env.yaml"
    )
    model.save(str(out / MODEL_FILE))


def digest_in(model_file: str) -> str | None:
    """Return the checkpoint's digest that the text of an `MLmodel` file states."""
    import yaml

    try:
        name = yaml.safe_load(model_file)["flavors"]["transformers"]["source_model_name"]
    except (yaml.YAMLError, KeyError, TypeError):
        return None
    kind, _, digest = str(name).partition(":")
    return digest if kind == "sha256" else None


def _write_requirements(out: Path) -> None:
    packages = [f"{name}=={version(name)}" for name in _PACKAGES]
    _write(out / "requirements.txt", "\n".join(packages) + "\n")
    python = platform.python_version()
    build = [f"{name}=={version(name)}" for name in ("pip", "setuptools") if _installed(name)]
    environment = {"python": python, "build_dependencies": build, "dependencies": ["-r requirements.txt"]}
    conda = {
        "name": "regrow-model",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": packages}],
    }
    # JSON is YAML.
    _write(out / "python_env.yaml", json.dumps(environment, indent=2) + "\n")
    _write(out / "conda.yaml", json.dumps(conda, indent=2) + "\n")


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
