"""A model on disk: a folder in Hugging Face format whose digest is its name.

Stages hand each other a `Checkpoint`, never a live module. The digest is the SHA-256 over a canonical
manifest (every file's path, size and SHA-256), so that it changes when any byte of weights,
configuration, tokenizer or chat template does. The folder `provenance/` at the top holds statements about
the model (regrow.lineage); they name the digest, so they are not part of it.
"""

import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from regrow import device as devices
from regrow import tensors
from regrow.errors import InputError
from regrow.files import atomic_folder, canonical_digest, link_or_copy, read_json, sha256_of

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROVENANCE = "provenance"
DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


class Checkpoint(BaseModel):
    """A model folder that has been opened and digested."""

    model_config = ConfigDict(frozen=True)

    folder: Path = Field(description="folder with config.json, safetensors and tokenizer")
    digest: str = Field(description="SHA-256 over the manifest of the folder, hexadecimal")
    parameters: int = Field(description="number of stored weights; tied embeddings count once")

    @classmethod
    def open(cls, folder: str | Path, *, known: Mapping[str, str] | None = None) -> "Checkpoint":
        """Check and digest a model folder.

        Args:
            folder: the folder.
            known: SHA-256 by relative path of files that were hashed while this process wrote them.

        Raises:
            InputError: not a folder, no config.json, no safetensors, a shard damaged or missing.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder")
        if not (folder / "config.json").exists():
            raise InputError(f"{folder}: no config.json; this is not a Hugging Face model folder")
        read_json(folder / "config.json")
        count = sum(info.count for info in tensors.index(folder).values())
        return cls(folder=folder.absolute(), digest=digest_of(folder, known), parameters=count)

    @property
    def config(self) -> dict[str, Any]:
        """The model's config.json."""
        config: dict[str, Any] = read_json(self.folder / "config.json")
        return config

    @property
    def blocks(self) -> int:
        """Number of decoder blocks.

        Raises:
            InputError: the configuration does not say.
        """
        config = self.config
        config = config.get("text_config", config)
        if not isinstance(count := config.get("num_hidden_layers"), int):
            raise InputError(f"{self.folder / 'config.json'}: no num_hidden_layers; unknown architecture")
        return count

    def tensors(self) -> dict[str, tensors.TensorInfo]:
        """Every tensor by name, from the headers."""
        return tensors.index(self.folder)

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """Load the tokenizer.

        Raises:
            InputError: the folder has none.
        """
        from transformers import AutoTokenizer

        if not any(
            (self.folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")
        ):
            raise InputError(f"{self.folder}: no tokenizer; copy tokenizer.json from the base model into it")
        try:
            return AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except Exception as error:
            raise InputError(f"{self.folder}: the tokenizer cannot be read ({_first_line(error)})") from error

    def chat_tokenizer(self) -> "PreTrainedTokenizerBase":
        """Load the tokenizer of a model that must have a chat template.

        Raises:
            InputError: the tokenizer or its chat template is missing.
        """
        tokenizer = self.tokenizer()
        if not tokenizer.chat_template:
            raise InputError(
                f"{self.folder}: the tokenizer has no chat template; add chat_template.jinja (instruct models "
                "carry one) or start from the model's instruct variant"
            )
        return tokenizer

    def load(self, *, dtype: str = "auto", device: str | None = None) -> "PreTrainedModel":
        """Load the model in evaluation mode with stock transformers; no code of the model is executed.

        Args:
            dtype: a torch type's name, or "auto": the stored type where the hardware multiplies in it, else
                float32 (`regrow.device.compute_dtype`).
            device: where to put it; CUDA when there is one if not given.

        Raises:
            InputError: transformers does not know the architecture or cannot fit the weights to it.
        """
        from transformers import AutoModelForCausalLM

        where = device or devices.device()
        chosen = self.compute_dtype(dtype, where)
        try:
            model = AutoModelForCausalLM.from_pretrained(
                self.folder, dtype=chosen, local_files_only=True, trust_remote_code=False
            )
        except (ValueError, KeyError, OSError) as error:
            raise InputError(
                f"{self.folder}: cannot be loaded as a causal LM ({_first_line(error)})"
            ) from error
        return model.to(where).eval()

    def stored_dtype(self) -> "torch.dtype":
        """The torch type that most of the weights are stored in.

        Raises:
            InputError: the weights are quantized or of another type than float.
        """
        import torch

        stored: torch.dtype = getattr(torch, self.stored_dtype_name())
        return stored

    def stored_dtype_name(self) -> str:
        """The name of `stored_dtype`, without torch; raises as that does."""
        sizes: dict[str, int] = {}
        for info in self.tensors().values():
            sizes[info.dtype] = sizes.get(info.dtype, 0) + info.count
        most = max(sizes, key=lambda name: sizes[name])
        names = {stored: name for name, stored in DTYPES.items()}
        if most not in names:
            raise InputError(
                f"{self.folder}: the weights are stored as {most}; regrow works on {', '.join(DTYPES)} checkpoints"
            )
        return names[most]

    def compute_dtype(self, name: str = "auto", where: str | None = None) -> "torch.dtype":
        """The torch type to compute in: the named one, or for "auto" what `load` says, on the device `where`."""
        import torch

        if name == "auto":
            return devices.compute_dtype(self.stored_dtype(), where)
        named: torch.dtype = getattr(torch, name)
        return named

    def copy_to(self, out: Path) -> "Checkpoint":
        """Give `out` the same files: weights linked where the file system allows, small files copied.

        The statements in `provenance/` go along: the copy is the same model.
        """
        with atomic_folder(out, replace=True) as scratch:
            for file in _every_file(self.folder):
                target = scratch / file.relative_to(self.folder)
                if file.suffix == ".safetensors":
                    link_or_copy(file, target)
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, target)
        return self.model_copy(update={"folder": out.absolute()})

    @property
    def size(self) -> int:
        """Bytes of all files that the digest is over."""
        return sum(file.stat().st_size for file in _files(self.folder))

    def summary(self) -> dict[str, Any]:
        """Facts for metadata and logs."""
        config = self.config
        return {
            "digest": self.digest,
            "parameters": self.parameters,
            "blocks": self.blocks,
            "architecture": (config.get("architectures") or [config.get("model_type")])[0],
            "bytes": self.size,
        }


def manifest(folder: Path, known: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of every file below `folder`, by relative path, hashed in parallel."""
    files = {file.relative_to(folder).as_posix(): file for file in _files(folder)}
    digests = dict(known or {})
    unknown = [name for name in files if name not in digests]
    with ThreadPoolExecutor() as pool:
        digests.update(zip(unknown, pool.map(sha256_of, (files[name] for name in unknown)), strict=True))
    return {name: {"sha256": digests[name], "size": file.stat().st_size} for name, file in files.items()}


def digest_of(folder: Path, known: Mapping[str, str] | None = None) -> str:
    """Return the digest that names the folder's content; `known` as in `Checkpoint.open`."""
    return canonical_digest(manifest(folder, known))


def copy_small_files(source: Path, target: Path) -> None:
    """Copy a checkpoint's files but weights, their index, and what tells of that model: card and provenance."""
    for file in _files(source):
        if file.suffix != ".safetensors" and file.name not in (tensors.INDEX, "README.md"):
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)


def _every_file(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _files(folder: Path) -> list[Path]:
    provenance = folder / PROVENANCE
    return [path for path in _every_file(folder) if provenance not in path.parents]


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
