"""What MLflow loads around the weights: as written, as MLflow leaves it, and with all that somebody could change."""

import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from regrow.registry import RegistrySpec, register
from regrow.registry.alterations import alterations
from tests.registry.stored import store
from tests.tiny import tiny_checkpoint

SPEC = RegistrySpec(name="tiny")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    checkpoint = tiny_checkpoint(folder / "tiny")
    return checkpoint, store(checkpoint, folder / "stored")


@pytest.fixture
def model(original, tmp_path) -> Path:
    """A stored model to tamper with."""
    return Path(shutil.copytree(original[1], tmp_path / "model"))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def field(model: Path, place: str, value, name: str = "MLmodel") -> None:
    """Set a field of a YAML file, named by its path."""
    content = inner = yaml.safe_load((model / name).read_text())
    *above, last = place.split("/")
    for key in above:
        inner = inner[key]
    inner[last] = value
    (model / name).write_text(yaml.safe_dump(content))


def put(file: Path, text: str = "x") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def other_folder(model: Path) -> None:
    """Weights of somebody else beside the checkpoint, and MLmodel pointed at them."""
    shutil.copytree(model / "checkpoint", model / "weights")
    field(model, "flavors/transformers/model_binary", "weights")


def moved(model: Path) -> None:
    """The checkpoint is not where the audit looks for it."""
    (model / "checkpoint").rename(model / "weights")
    field(model, "flavors/transformers/model_binary", "weights")


def evil_loader(model: Path) -> None:
    put(model / "code" / "evil.py", "print('runs')")
    field(model, "flavors/python_function/loader_module", "evil")
    field(model, "flavors/python_function/code", "code")


def linked(model: Path) -> None:
    """The tokenizer as a link to a place that can be changed at any time."""
    (model / "components").rename(model.parent / "elsewhere")
    (model / "components").symlink_to(model.parent / "elsewhere")


def conda(model: Path, *more: str) -> None:
    value = yaml.safe_load((model / "conda.yaml").read_text())
    value["dependencies"][-1]["pip"] += more
    (model / "conda.yaml").write_text(json.dumps(value))


PYFUNC, FLAVOR = "MLmodel: flavors.python_function", "MLmodel: flavors.transformers"
TAMPERED = {
    "chat template": (
        lambda m: edit(m / "components/tokenizer/chat_template.jinja", "assistant", "evil"),
        {"file changed: components/tokenizer/chat_template.jinja"},
    ),
    "tokenizer": (
        lambda m: edit(m / "components/tokenizer/tokenizer.json", "<|im_end|>", "<|im_fin|>"),
        {"file changed: components/tokenizer/tokenizer.json"},
    ),
    "a tokenizer's file gone": (
        lambda m: (m / "components/tokenizer/tokenizer_config.json").unlink(),
        {"file removed: components/tokenizer/tokenizer_config.json"},
    ),
    "a tokenizer's file added": (
        lambda m: put(m / "components/tokenizer/tokenization_evil.py"),
        {"file added: components/tokenizer/tokenization_evil.py"},
    ),
    "a component added": (
        lambda m: put(m / "components/processor/config.json"), {"file added: components/processor/config.json"},
    ),
    "the components linked": (linked, {"file added: components"}),
    "a file added": (lambda m: put(m / "more.txt"), {"file added: more.txt"}),
    "a hidden file added": (lambda m: put(m / ".env"), {"file added: .env"}),
    "an empty folder added": (lambda m: (m / "code").mkdir(), {"file added: code"}),
    "a loader of its own": (
        evil_loader,
        {"file added: code/evil.py", f"field changed: {PYFUNC}.loader_module", f"field changed: {PYFUNC}.code"},
    ),
    "code of the flavor": (
        lambda m: field(m, "flavors/transformers/code", "checkpoint"), {f"field changed: {FLAVOR}.code"},
    ),
    "other weights": (
        other_folder,
        {f"field changed: {FLAVOR}.model_binary"}
        | {
            f"file added: weights/{name}"
            for name in (
                "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
                "tokenizer_config.json",
            )
        },
    ),
    "an adapter": (
        lambda m: field(m, "flavors/transformers/peft_adaptor", "peft"), {f"field changed: {FLAVOR}.peft_adaptor"},
    ),
    "weights from the hub": (
        lambda m: field(m, "flavors/transformers/source_model_name", "org/evil"),
        {f"field changed: {FLAVOR}.source_model_name"},
    ),
    "task": (lambda m: field(m, "flavors/transformers/task", "fill-mask"), {f"field changed: {FLAVOR}.task"}),
    "type of the model": (
        lambda m: field(m, "flavors/transformers/pipeline_model_type", "Other"),
        {f"field changed: {FLAVOR}.pipeline_model_type"},
    ),
    "type of the weights": (
        lambda m: field(m, "flavors/transformers/torch_dtype", "torch.float16"),
        {f"field changed: {FLAVOR}.torch_dtype"},
    ),
    "class of the tokenizer": (
        lambda m: field(m, "flavors/transformers/tokenizer_type", "EvilTokenizer"),
        {f"field changed: {FLAVOR}.tokenizer_type"},
    ),
    "another general class of the tokenizer": (
        lambda m: field(m, "flavors/transformers/tokenizer_type", "PreTrainedTokenizerFast"),
        {f"field changed: {FLAVOR}.tokenizer_type"},
    ),
    "versions that differ from the requirements": (
        lambda m: field(m, "flavors/transformers/transformers_version", "4.0.0"),
        {f"field changed: {FLAVOR}.transformers_version"},
    ),
    "a flavor added": (
        lambda m: field(m, "flavors/sklearn", {"code": "x"}), {"field changed: MLmodel: flavors.sklearn"},
    ),
    "a flavor gone": (
        lambda m: edit(m / "MLmodel", "  python_function:", "  crate:"),
        {"field changed: MLmodel: flavors.python_function", "field changed: MLmodel: flavors.crate"},
    ),
    "environment": (
        lambda m: field(m, "flavors/python_function/env/conda", "other.yaml"), {f"field changed: {PYFUNC}.env.conda"},
    ),
    "digest": (
        lambda m: field(m, "metadata/regrow.digest", "0" * 64), {"field changed: MLmodel: metadata.regrow.digest"},
    ),
    "a template around every prompt": (
        lambda m: field(m, "metadata/prompt_template", "evil {prompt}"),
        {"field changed: MLmodel: metadata.prompt_template"},
    ),
    "signature": (
        lambda m: edit(m / "MLmodel", '"default": 256', '"default": 1'), {"field changed: MLmodel: signature.params"},
    ),
    "a field added": (lambda m: field(m, "env_vars", ["KEY"]), {"field changed: MLmodel: env_vars"}),
    "run": (lambda m: field(m, "run_id", "../other run"), {"field changed: MLmodel: run_id"}),
    "size": (lambda m: field(m, "model_size_bytes", 1), {"field changed: MLmodel: model_size_bytes"}),
    "no fields": (lambda m: (m / "MLmodel").write_text("evil: [\n"), {"file damaged: MLmodel"}),
    "a requirement added": (
        lambda m: put(m / "requirements.txt", (m / "requirements.txt").read_text() + "evil==1.0\n"),
        {"file changed: requirements.txt"},
    ),
    "another index": (
        lambda m: put(m / "requirements.txt", "--index-url https://evil\n" + (m / "requirements.txt").read_text()),
        {"file changed: requirements.txt"},
    ),
    "a requirement from elsewhere": (
        lambda m: edit(m / "requirements.txt", f"accelerate=={version('accelerate')}", "accelerate @ https://evil"),
        {"file changed: requirements.txt", "field changed: conda.yaml: dependencies"},
    ),
    "a requirement of conda": (lambda m: conda(m, "evil==1.0"), {"field changed: conda.yaml: dependencies"}),
    "a channel of conda": (
        lambda m: field(m, "channels", ["evil"], "conda.yaml"), {"field changed: conda.yaml: channels"},
    ),
    "a dependency of the build": (
        lambda m: field(m, "build_dependencies", ["pip==23.2.1", "evil==1.0"], "python_env.yaml"),
        {"field changed: python_env.yaml: build_dependencies"},
    ),
    "a dependency of Python's environment": (
        lambda m: field(m, "dependencies", ["-r requirements.txt", "evil"], "python_env.yaml"),
        {"field changed: python_env.yaml: dependencies"},
    ),
    "an environment gone": (lambda m: (m / "conda.yaml").unlink(), {"file removed: conda.yaml"}),
    "input example": (lambda m: put(m / "input_example.json", "[1]"), {"field changed: input_example.json"}),
    "manifest": (lambda m: put(m / "manifest.json", '{"digest": "0"}'), {"field changed: manifest.json: digest"}),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_what_was_changed_is_named_and_nothing_else(original, model, case):
    tamper, expected = TAMPERED[case]
    tamper(model)
    assert {f"{one.what}: {one.where}" for one in alterations(model, original[0].digest)} == expected


def test_a_checkpoint_that_was_moved_away_is_named(original, model):
    moved(model)
    found = {f"{one.what}: {one.where}" for one in alterations(model, original[0].digest)}
    assert found >= {"file removed: checkpoint/", "file added: weights/model.safetensors"}


def test_other_weights_in_the_checkpoint_are_not_those_of_the_model(original, model, tmp_path):
    other = tiny_checkpoint(tmp_path / "other", seed=3)
    shutil.copyfile(other.folder / "model.safetensors", model / "checkpoint" / "model.safetensors")
    assert {one.where for one in alterations(model, other.digest)} == {
        f"{FLAVOR}.source_model_name", "MLmodel: metadata.regrow.digest", "MLmodel: model_uuid",
    }  # fmt: skip


def test_a_model_that_nobody_touched_is_clean(original, model):
    checkpoint, stored = original
    assert alterations(stored, checkpoint.digest) == []
    (model / "manifest.json").write_text(json.dumps({"digest": checkpoint.digest, "files": {}}))
    assert alterations(model, checkpoint.digest) == []


def test_what_versions_of_the_packages_write_differently_is_clean(original, model):
    """As stored on a machine with other packages, and described by another MLflow."""
    for name in ("MLmodel", "requirements.txt", "conda.yaml", "python_env.yaml"):
        text = (model / name).read_text()
        for package in ("mlflow", "transformers", "torch", "accelerate", "pip"):
            text = re.sub(rf"\b{package}==[^\s\"]+", f"{package}==4.9.9rc1+cu121", text)
        text = re.sub(r"(transformers_version: ).*", r"\g<1>4.9.9rc1+cu121", text)
        text = re.sub(r"(python_version: |\"python\": \"|\"python=)[\d.]+", r"\g<1>3.13.0", text)
        (model / name).write_text(text)
    field(model, "mlflow_version", "4.0.0.dev0")
    field(model, "model_id", "m-0123456789abcdef0123456789abcdef")
    field(model, "flavors/transformers/tokenizer_type", "PreTrainedTokenizerFast")
    for key in ("resources", "env_vars", "something_new"):
        field(model, key, None)
    assert alterations(model, original[0].digest) == []


@pytest.mark.parametrize("place", ["stored", "run"])
def test_what_mlflow_does_to_a_version_is_clean(server, original, model, tmp_path, place):
    import mlflow

    checkpoint = original[0]
    done = register(checkpoint, SPEC, tags={}, metrics={}, stored=str(model) if place == "stored" else None)
    source = Path(done.source.removeprefix("file://"))
    assert alterations(source, checkpoint.digest) == []
    assert mlflow.transformers.load_model(done.uri).model.num_parameters() == checkpoint.parameters
    mlflow.pyfunc.load_model(done.uri)
    assert (source / "registered_model_meta").exists()
    assert alterations(source, checkpoint.digest) == []
    mlflow.register_model(str(source), "again")
    mlflow.transformers.load_model("models:/again/1")
    assert alterations(source, checkpoint.digest) == []
    fetched = mlflow.artifacts.download_artifacts(done.uri, dst_path=str(tmp_path / "fetched"))
    assert alterations(Path(fetched), checkpoint.digest) == []
