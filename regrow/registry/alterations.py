"""What somebody has changed in a stored MLflow model around its checkpoint: what MLflow loads is more than the weights.

The checkpoint has statements about its digest. All else in the folder (`regrow.registry.layout`) follows from the
checkpoint and from versions of packages, and is held against that here, without torch or MLflow. Free to differ are
those versions, what MLflow notes of the run, and the texts of the model card and the licence.
"""

import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.files import sha256_of
from regrow.lineage import Failure
from regrow.registry.layout import (
    BUILD_PACKAGES,
    CARD,
    EXAMPLES,
    MAX_NEW_TOKENS,
    MODEL_FILE,
    PACKAGES,
    REQUIREMENTS,
    TOKENIZER,
    checkpoint_in,
    described,
    environments,
    tokenizer_files,
)
from regrow.registry.names import CHECKPOINT, first_line

_NOTHING = "nothing"
_FILES = {MODEL_FILE, CARD, REQUIREMENTS, *environments([], "", []), *EXAMPLES}
# Of the pipeline's artifact store, and of MLflow's loader.
_MANIFEST = "manifest.json"
_MORE_FILES = {_MANIFEST, "registered_model_meta"}
_VERSION = r"[0-9][0-9A-Za-z.+!_-]*"
# Fields of MLmodel that tell of the run and the day.
_FREE = {
    "run_id": r"[\w-]+",
    "model_id": r"m-[\w-]+",
    "mlflow_version": _VERSION,
    "utc_time_created": r"[0-9][0-9T:. +-]*Z?",
}
_TEXT = {"type": "string", "required": True}
_TOKENS = {"name": "max_new_tokens", "default": MAX_NEW_TOKENS, "shape": None, "type": "long"}
_SIGNATURE = {"inputs": [_TEXT], "outputs": [_TEXT], "params": [_TOKENS]}
# What transformers, of one version or another, makes of tokenizers that have no class of their own.
_ANY_TOKENIZER = {"PreTrainedTokenizerFast", "TokenizersBackend"}


def alterations(model: Path, digest: str) -> list[Failure]:
    """Name each file and field of an MLflow model that regrow has not written so; the checkpoint's files are not read.

    Args:
        model: the folder with `MLmodel`.
        digest: of the checkpoint in it, as it is now.

    Returns:
        What is wrong; `where` is a file, or FILE: FIELD. Nothing for the folder as it was written, and as MLflow and
        the artifact store leave it.
    """
    packages, python, failures = _environment(model)
    return [
        *_entries(model),
        *_tokenizer(model),
        *failures,
        *(one for name, value in EXAMPLES.items() for one in _content(model, name, value)),
        *_description(model, digest, packages, python),
        *_manifest(model, digest),
    ]


def _entries(model: Path) -> Iterator[Failure]:
    """Name what lies in the folder, and should not, and what does not, and should."""
    folders = {CHECKPOINT, *map(str, TOKENIZER.parents), str(TOKENIZER)} - {"."}
    for place in (model, model / TOKENIZER.parent):
        for path in sorted(place.iterdir()) if place.is_dir() else []:
            name = path.relative_to(model).as_posix()
            if name in folders and path.is_dir() and not path.is_symlink():
                continue
            if name not in _FILES | _MORE_FILES or not path.is_file():
                yield from _added(model, path)
    for name in sorted(_FILES):
        if not (model / name).is_file():
            yield Failure(what="file removed", where=name, expected="the file", found=_NOTHING)
    if not (model / CHECKPOINT).is_dir():
        yield Failure(what="file removed", where=f"{CHECKPOINT}/", expected="the folder", found=_NOTHING)


def _added(model: Path, path: Path) -> Iterator[Failure]:
    inside = [] if path.is_symlink() else [one for one in sorted(path.rglob("*")) if not one.is_dir()]
    for file in inside or [path]:
        found = f"a link to {file.readlink()}" if file.is_symlink() else "a folder"
        if file.is_file() and not file.is_symlink():
            found = sha256_of(file)
        where = file.relative_to(model).as_posix()
        yield Failure(what="file added", where=where, expected="no such file", found=found)


def _tokenizer(model: Path) -> Iterator[Failure]:
    """Compare the tokenizer that MLflow loads with the checkpoint's own."""
    place = model / TOKENIZER
    wanted = {file.name: file for file in tokenizer_files(checkpoint_in(model))}
    there = {path.name: path for path in place.iterdir()} if place.is_dir() else {}
    for name in sorted(wanted.keys() | there.keys()):
        where = (TOKENIZER / name).as_posix()
        if name not in wanted:
            yield from _added(model, there[name])
            continue
        expected = f"{sha256_of(wanted[name])}, as in {CHECKPOINT}/{name}"
        if name not in there or not there[name].is_file():
            yield Failure(what="file removed", where=where, expected=expected, found=_NOTHING)
        elif (found := sha256_of(there[name])) != expected[: len(found)]:
            yield Failure(what="file changed", where=where, expected=expected, found=found)


def _environment(model: Path) -> tuple[list[str], str, list[Failure]]:
    """Return the packages and the Python that the files name, and what in these files is wrong."""
    text = _text(model / REQUIREMENTS)
    lines = text.splitlines()
    packages = [_pin(name, lines) for name in PACKAGES]
    failures = []
    if (model / REQUIREMENTS).is_file() and lines != packages:
        odd = [one for one in lines if one not in packages]
        found = ", ".join(odd) or ", ".join(lines) or _NOTHING
        expected = ", ".join(f"{name}==VERSION" for name in PACKAGES)
        failures.append(Failure(what="file changed", where=REQUIREMENTS, expected=expected, found=found))
    said = _parsed(model / "python_env.yaml")
    said = said if isinstance(said, Mapping) else {}
    python = said.get("python")
    python = python if isinstance(python, str) and re.fullmatch(_VERSION, python) else "VERSION"
    pins = said.get("build_dependencies")
    pins = [str(one) for one in pins] if isinstance(pins, list) else []
    build = [one for name in BUILD_PACKAGES if (one := _pin(name, pins)) in pins]
    for name, value in environments(packages, python, build).items():
        failures += _content(model, name, value)
    return packages, python, failures


def _pin(name: str, lines: list[str]) -> str:
    """Return the line that pins a package; what it should look like where there is none."""
    pattern = re.compile(f"{re.escape(name)}=={_VERSION}")
    return next((one for one in lines if pattern.fullmatch(one)), f"{name}==VERSION")


def _description(model: Path, digest: str, packages: list[str], python: str) -> Iterator[Failure]:
    """Compare `MLmodel` with what is written for this checkpoint."""
    file = model / MODEL_FILE
    found = _parsed(file)
    if not isinstance(found, dict):
        yield Failure(what="file damaged", where=MODEL_FILE, expected="fields", found=str(found)[:80])
        return
    # It is not opened: that would hash it again.
    checkpoint = Checkpoint(folder=checkpoint_in(model), digest=digest, parameters=0)
    licence = _at(found, "metadata", "licence")
    try:
        expected = described(
            checkpoint,
            tokenizer=_tokenizer_type(checkpoint, found, packages),
            licence=licence if isinstance(licence, str) else "a licence",
            transformers=dict(one.split("==") for one in packages)["transformers"],
            python=python,
        )
    except (InputError, KeyError, IndexError, TypeError) as error:
        where = f"{CHECKPOINT}/"
        expected_text = f"a model that {MODEL_FILE} can be held against"
        yield Failure(what="file damaged", where=where, expected=expected_text, found=first_line(error))
        return
    for name, pattern in _FREE.items():
        if isinstance(value := found.get(name), str) and re.fullmatch(pattern, value):
            expected[name] = value
    if isinstance(said := found.get("signature"), Mapping):
        found["signature"] = {key: _json(value) for key, value in said.items()}
    yield from _differences(expected | {"signature": _SIGNATURE}, found, MODEL_FILE)


def _tokenizer_type(checkpoint: Checkpoint, found: Any, packages: list[str]) -> str:
    """Return the tokenizer's class as `MLmodel` must name it."""
    said = _at(found, "flavors", "transformers", "tokenizer_type")
    stated = _at(_parsed(checkpoint.folder / "tokenizer_config.json"), "tokenizer_class")
    if isinstance(said, str) and isinstance(stated, str) and _slow(said) == _slow(stated):
        return said
    # Which class it is, is for transformers to say; another version of it may say something else.
    if (
        isinstance(said, str)
        and said in _ANY_TOKENIZER
        and f"transformers=={version('transformers')}" not in packages
    ):
        return said
    return type(checkpoint.tokenizer()).__name__


def _slow(name: str) -> str:
    """The name of a tokenizer's class without what tells how it is implemented."""
    return name.removesuffix("Fast")


def _manifest(model: Path, digest: str) -> Iterator[Failure]:
    """The artifact store's manifest is about this checkpoint, where there is one."""
    if (model / _MANIFEST).is_file() and (found := _at(_json(_text(model / _MANIFEST)), "digest")) != digest:
        where = f"{_MANIFEST}: digest"
        yield Failure(what="field changed", where=where, expected=digest, found=_said(found))


def _content(model: Path, name: str, expected: Any) -> Iterator[Failure]:
    """Compare what a file says with what it should; one that is not there has been named."""
    if (model / name).is_file():
        yield from _differences(expected, _parsed(model / name), name)


def _differences(expected: Any, found: Any, where: str) -> Iterator[Failure]:
    """Name the fields that differ. One without a value is as good as none: versions of MLflow differ in them."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in sorted(expected.keys() | found.keys(), key=str):
            place = f"{where}.{key}" if ": " in where else f"{where}: {key}"
            if key in expected or found[key] not in (None, False):
                yield from _differences(expected.get(key), found.get(key), place)
    elif expected != found or type(expected) is not type(found):
        yield Failure(what="field changed", where=where, expected=_said(expected), found=_said(found))


def _said(value: Any) -> str:
    return (
        value if isinstance(value, str) else json.dumps(value, default=str) if value is not None else _NOTHING
    )


def _at(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _parsed(file: Path) -> Any:
    """Return what a YAML file says, as MLflow reads it; its text where it is no YAML."""
    import yaml

    text = _text(file)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _json(value: Any) -> Any:
    try:
        return json.loads(value) if value is not None else None
    except (TypeError, ValueError):
        return value


def _text(file: Path) -> str:
    """Return a file's text; none where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
