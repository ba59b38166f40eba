"""A checkpoint's folder as an MLflow model of the transformers flavor, without touching a byte of it.

    MLmodel                   what MLflow reads: flavor, signature, input example
    README.md                 model card with the licence chain
    requirements.txt          python_env.yaml, conda.yaml: what loading needs
    input_example.json        serving_input_example.json
    components/tokenizer/     copies of the tokenizer's files, where MLflow looks for them
    checkpoint/               the checkpoint, byte for byte

MLflow's own writer would load the weights and serialise them again. What is written here follows from the checkpoint
and from the versions of a few packages, so that `regrow.registry.alterations` can say what somebody has changed.
"""

import json
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from regrow.checkpoint import Checkpoint
from regrow.files import link_or_copy
from regrow.registry.card import card as write_card
from regrow.registry.card import with_front_matter
from regrow.registry.licences import LicenceChain, licences_of
from regrow.registry.names import CHECKPOINT

MODEL_FILE = "MLmodel"
CARD = "README.md"
REQUIREMENTS = "requirements.txt"
TOKENIZER = Path("components", "tokenizer")
PACKAGES = ("mlflow", "transformers", "torch", "accelerate")
BUILD_PACKAGES = ("pip", "setuptools")
_TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "chat_template.jinja")
_EXAMPLE = ["Which gas do plants take in from the air?"]
EXAMPLES = {"input_example.json": _EXAMPLE, "serving_input_example.json": {"inputs": _EXAMPLE}}
MAX_NEW_TOKENS = 256


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
    from mlflow.models import Model, infer_signature

    tokenizer = type(checkpoint.tokenizer()).__name__
    for file in tokenizer_files(checkpoint.folder):
        target = out / TOKENIZER / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    licences = licences or licences_of(checkpoint.folder)
    card = card or write_card(checkpoint, licences)
    _write(out / CARD, with_front_matter(card, licences))
    packages, python = [_pinned(name) for name in PACKAGES], platform.python_version()
    _write(out / REQUIREMENTS, "\n".join(packages) + "\n")
    build = [_pinned(name) for name in BUILD_PACKAGES if _installed(name)]
    for name, value in (environments(packages, python, build) | EXAMPLES).items():
        # JSON is YAML.
        _write(out / name, json.dumps(value, indent=2) + "\n")
    said = described(
        checkpoint,
        tokenizer=tokenizer,
        licence=licences.strictest,
        transformers=version("transformers"),
        python=python,
    )
    signature = infer_signature(_EXAMPLE, ["An answer."], params={"max_new_tokens": MAX_NEW_TOKENS})
    Model(run_id=run_id, signature=signature, **said).save(str(out / MODEL_FILE))


def checkpoint_in(model: Path) -> Path:
    """Return the checkpoint's folder in an MLflow model; the model's own where there is none, which no audit passes."""
    inside = model / CHECKPOINT
    return inside if inside.is_dir() else model


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that MLflow wants to have beside it, in `TOKENIZER`."""
    found = {file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern) if file.is_file()}
    return sorted(found)


def described(
    checkpoint: Checkpoint, *, tokenizer: str, licence: str, transformers: str, python: str
) -> dict[str, Any]:
    """Return the fields of `MLmodel` that follow from the checkpoint.

    Args:
        checkpoint: the model; its weights are not read.
        tokenizer: class of its tokenizer in transformers.
        licence: the most restrictive one of its chain.
        transformers: version that wrote it.
        python: version that wrote it.
    """
    return {
        "flavors": {
            "python_function": {
                "loader_module": "mlflow.transformers",
                "python_version": python,
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
            },
            "transformers": {
                "transformers_version": transformers,
                "code": None,
                "task": "text-generation",
                "instance_type": "TextGenerationPipeline",
                "source_model_name": f"sha256:{checkpoint.digest}",
                "pipeline_model_type": checkpoint.config["architectures"][0],
                "model_binary": CHECKPOINT,
                "components": ["tokenizer"],
                "tokenizer_type": tokenizer,
                "torch_dtype": f"torch.{checkpoint.stored_dtype_name()}",
            },
        },
        "metadata": {"regrow.digest": checkpoint.digest, "licence": licence},
        "model_uuid": checkpoint.digest[:32],
        "model_size_bytes": checkpoint.size,
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "serving_input_path": "serving_input_example.json",
            "type": "json_object",
        },
    }


def environments(packages: list[str], python: str, build: list[str]) -> dict[str, Any]:
    """Return what the files hold, by name, that say what loading needs.

    Args:
        packages: pinned, as in `REQUIREMENTS`.
        python: its version.
        build: pinned packages that install the others.
    """
    return {
        "python_env.yaml": {
            "python": python,
            "build_dependencies": build,
            "dependencies": [f"-r {REQUIREMENTS}"],
        },
        "conda.yaml": {
            "name": "regrow-model",
            "channels": ["conda-forge"],
            "dependencies": [f"python={python}", "pip", {"pip": packages}],
        },
    }


def digest_in(model_file: str) -> str | None:
    """Return the checkpoint's digest that the text of an `MLmodel` file states."""
    import yaml

    try:
        name = yaml.safe_load(model_file)["flavors"]["transformers"]["source_model_name"]
    except (yaml.YAMLError, KeyError, TypeError):
        return None
    kind, _, digest = str(name).partition(":")
    return digest if kind == "sha256" else None


def _pinned(name: str) -> str:
    return f"{name}=={version(name)}"


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
