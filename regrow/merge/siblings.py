"""Which models can be merged: those that come from one parent and differ in their weights alone."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.files import read_json, sha256_of
from regrow.merge.spec import MergeSpec

RECORD = "merge.json"
# Keys of config.json that say who wrote it, not what the model is.
_NOT_THE_MODEL = ("_name_or_path", "transformers_version")
_TYPE = ("dtype", "torch_dtype")
_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja")
# The line that tuning writes into the model card.
_PARENT = re.compile(r"^Parent: sha256:([0-9a-f]{64})$", re.MULTILINE)


def refuse_strangers(models: Sequence[Checkpoint], spec: MergeSpec, base: Checkpoint | None = None) -> None:
    """Raise unless the models can be merged weight by weight.

    Args:
        models: at least one.
        spec: whether a type was chosen, so that the models may be stored in different ones.
        base: the common parent, where the method takes one.

    Raises:
        InputError: names the first difference, its file and field.
    """
    first, *others = models
    for other in others:
        where = f"{other.folder}: cannot be merged with {first.folder}"
        _compare_tensors(first, other, where, types=spec.dtype == "auto")
        _compare_configs(first, other, where, types=spec.dtype == "auto")
        _compare_tokenizers(first, other, where)
        _compare_plans(first, other, where)
    _compare_parents(models, base)
    if base:
        where = f"{base.folder}: cannot be the parent of {first.folder}"
        _compare_tensors(first, base, where, types=False)
        _compare_plans(first, base, where)


def parent_of(model: Checkpoint) -> tuple[str, str] | None:
    """Return the digest of the model that this one was tuned from, and the file that says so.

    Tuning records it in the model card, merging in merge.json; a model from elsewhere says nothing.
    """
    if (record := model.folder / RECORD).exists():
        return (parent, RECORD) if (parent := read_json(record).get("parent")) else None
    card = model.folder / "README.md"
    found = _PARENT.search(card.read_text(encoding="utf-8", errors="replace")) if card.exists() else None
    return (found[1], "README.md") if found else None


def _compare_tensors(a: Checkpoint, b: Checkpoint, where: str, *, types: bool) -> None:
    left, right = a.tensors(), b.tensors()
    if odd := sorted(set(left) ^ set(right)):
        raise InputError(f"{where}: tensor {odd[0]} is only in one of them")
    for name, info in left.items():
        if (one := info.shape) != (other := right[name].shape):
            raise InputError(f"{where}: shape of {name} is {other}, not {one}")
        if types and info.dtype != right[name].dtype:
            raise InputError(
                f"{where}: dtype of {name} is {right[name].dtype}, not {info.dtype}; say what to save with dtype "
                "(bfloat16, float16 or float32)"
            )


def _compare_configs(a: Checkpoint, b: Checkpoint, where: str, *, types: bool) -> None:
    ignored = _NOT_THE_MODEL if types else (*_NOT_THE_MODEL, *_TYPE)
    one, other = _flat(a.config, ignored), _flat(b.config, ignored)
    if odd := sorted(key for key in one | other if one.get(key) != other.get(key)):
        raise InputError(f"{where}: config.json differs in {odd[0]}")


def _flat(config: Mapping[str, Any], ignored: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key not in ignored:
            inner = isinstance(value, dict) and value
            flat |= _flat(value, ignored, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def _compare_tokenizers(a: Checkpoint, b: Checkpoint, where: str) -> None:
    for name in _TOKENIZER:
        one, other = (sha256_of(file) if (file := m.folder / name).exists() else None for m in (a, b))
        if one != other:
            raise InputError(f"{where}: {name} differs; both must speak with one tokenizer and chat template")
    if _inline_template(a) != _inline_template(b):
        raise InputError(f"{where}: the chat template in tokenizer_config.json differs")


def _inline_template(model: Checkpoint) -> Any:
    file = model.folder / "tokenizer_config.json"
    return read_json(file).get("chat_template") if file.exists() else None


def _compare_plans(a: Checkpoint, b: Checkpoint, where: str) -> None:
    one, other = (read_json(file) if (file := m.folder / "plan.json").exists() else None for m in (a, b))
    if one is None and other is None:
        return
    if one is None or other is None:
        raise InputError(
            f"{where}: plan.json is only in one of them; both must have been pruned, and in one way"
        )
    if odd := sorted(key for key in one | other if one.get(key) != other.get(key)):
        raise InputError(f"{where}: plan.json differs in {odd[0]}; their blocks are not the same ones")


def _compare_parents(models: Sequence[Checkpoint], base: Checkpoint | None) -> None:
    known = [(model, found) for model in models if (found := parent_of(model))]
    for model, (parent, file) in known:
        if base and parent != base.digest:
            raise InputError(
                f"{model.folder / file}: Parent is sha256:{parent[:12]}, but the base {base.folder} is "
                f"sha256:{base.digest[:12]}; name the model that it was tuned from"
            )
        (first, (one, _)) = known[0]
        if parent != one:
            raise InputError(
                f"{model.folder}: cannot be merged with {first.folder}: {file} says Parent: sha256:{parent[:12]}, "
                f"not sha256:{one[:12]}; merge models that were tuned from one"
            )
