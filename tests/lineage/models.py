"""A chain of real folders: two rewritten sets, a base, pruned, tuned twice, merged; each with its statements."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from regrow.checkpoint import Checkpoint, copy_small_files
from regrow.files import canonical_digest, write_json
from regrow.lineage import (
    Resource,
    attest,
    describe_checkpoint,
    describe_folder,
    describe_value,
    embed,
    material,
)
from regrow.selfdata.store import SelfData, save
from regrow.tensors import ShardWriter, index

HUB = Resource(
    name="source",
    digest={"gitCommit": "7e27bd9f95328f0f3b08261d1252705110c806f8"},
    uri="hub:org/base@7e27bd9f95328f0f3b08261d1252705110c806f8",
)
DATA = Resource(name="source", digest={"sha256": "5d" * 32}, uri="hub:org/questions@v1")


@dataclass(frozen=True)
class Chain:
    """The folders of a chain."""

    base: Checkpoint
    pruned: Checkpoint
    tuned: tuple[Checkpoint, Checkpoint]
    merged: Checkpoint
    data: tuple[SelfData, SelfData]


def small_files(folder: Path) -> Path:
    """Write what a model has besides weights: configuration, tokenizer, chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    write_json(folder / "tokenizer_config.json", settings)
    write_json(folder / "generation_config.json", {"eos_token_id": 1, "do_sample": False})
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32}
    write_json(folder / "config.json", config)
    (folder / "chat_template.jinja").write_text("{% for one in messages %}{{ one['content'] }}{% endfor %}")
    return folder


def build_chain(
    place: Path, small: Path, *, blocks: int = 3, dtype: str = "F32", shard: int = 9000, seed: int = 0
) -> Chain:
    """Make a chain below `place`.

    Args:
        place: an empty folder.
        small: folder with the small files of a model (config.json, tokenizer, chat template).
        blocks: blocks of the base; one is pruned.
        dtype: type that the weights are stored in.
        shard: bytes of a shard.
        seed: for the weights.
    """
    base = _base(place / "base", small, blocks, dtype, shard, seed)
    embed(base.folder, attest("load_model", describe_checkpoint(base), [HUB], parameters={"source": HUB.uri}))
    importance = attest(
        "importance",
        [describe_value("importance", canonical_digest([seed, blocks]))],
        [material(base, "checkpoint")],
        parameters={"measure": "angular_distance"},
    )
    pruned = _pruned(place / "pruned", base, blocks, importance)
    data = tuple(_data(place / f"data-{name}", base, name) for name in "ab")
    tuned = tuple(_tuned(place / f"tuned-{one.folder.name[-1]}", pruned, one) for one in data)
    return Chain(base, pruned, tuned, _merged(place / "merged", tuned), data)


def _base(folder, small, blocks, dtype, shard, seed):
    folder.mkdir(parents=True)
    copy_small_files(small, folder)
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": blocks}
    write_json(folder / "config.json", config)
    names = ["model.embed_tokens.weight"]
    for block in range(blocks):
        names += [
            f"model.layers.{block}.{part}.weight" for part in ("self_attn.q_proj", "mlp.up_proj", "norm")
        ]
    _write(folder, {name: (dtype, _random(name, seed)) for name in names}, shard)
    return Checkpoint.open(folder)


def _random(name, seed):
    size = 512 if name.endswith("norm.weight") else 4096
    return np.random.default_rng([seed, *name.encode()]).integers(0, 255, size, dtype=np.uint8)


def _write(folder, weights, shard):
    width = {"F32": 4, "BF16": 2, "F16": 2}
    layout = {name: (dtype, (data.size // width[dtype],)) for name, (dtype, data) in weights.items()}
    with ShardWriter(folder, layout, max_shard_bytes=shard) as writer:
        for name, (_, data) in weights.items():
            writer.put_pieces(name, [memoryview(data)])


def read_weights(folder):
    """Return type and bytes of every tensor, by name, in the order of the shards."""
    found = {}
    for name, info in sorted(index(folder).items(), key=lambda one: (one[1].file.name, one[1].start)):
        data = np.frombuffer(info.file.read_bytes()[info.start : info.end], np.uint8)
        found[name] = (info.dtype, data)
    return found


def _derived(folder, parent, weights, config=None):
    folder.mkdir()
    copy_small_files(parent.folder, folder)
    if config:
        write_json(folder / "config.json", parent.config | config)
    _write(folder, weights, 9000)
    (folder / "README.md").write_text(f"# {folder.name}\n")
    return Checkpoint.open(folder)


def _pruned(folder, base, blocks, importance):
    last = f"model.layers.{blocks - 1}."
    weights = {name: one for name, one in read_weights(base.folder).items() if not name.startswith(last)}
    pruned = _derived(folder, base, weights, {"num_hidden_layers": blocks - 1})
    measured = Resource(
        name="importance", digest=importance.subject.digest, annotations={"attestation": importance.id}
    )
    plan = describe_value("plan", canonical_digest({"drop": blocks - 1}))
    statement = attest(
        "prune",
        describe_checkpoint(pruned),
        [material(base, "checkpoint"), measured, plan],
        parameters={"blocks": 1, "criterion": "angular_distance"},
    )
    embed(folder, statement, inherit=[base.folder], also=[importance])
    return pruned


def _data(folder, base, name):
    rows = [
        {
            "id": f"{number:016x}",
            "instruction": f"{name}: what is {number} and {number}?",
            "input": "",
            "reference": str(2 * number),
            "answer": str(2 * number),
            "source": name,
            "response": f"It is {2 * number}.",
            "rewrite": f"It is {2 * number}.",
            "engine": "transformers",
            "decision": "accepted",
            "attempts": 1,
            "prompt_tokens": 9,
            "response_tokens": 4,
            "seed": number,
        }
        for number in range(20)
    ]
    data = save(rows, {"family": "math", "engine": "transformers", "seed": 0}, folder)
    statement = attest(
        "distill",
        describe_folder(folder, "dataset", data.digest),
        [material(base, "checkpoint"), DATA],
        parameters={"engine": "transformers", "seed": 0},
        details={"acceptance_rate": data.summary["acceptance_rate"]},
    )
    embed(folder, statement, inherit=[base.folder])
    gate = attest(
        "validate",
        [describe_value("gate", canonical_digest([name, "passed"]))],
        [material(folder, "dataset", digest=data.digest)],
        parameters={"suite": "math"},
        details={"passed": True},
    )
    embed(folder, gate)
    return data


def _tuned(folder, parent, data):
    weights = {name: (dtype, (one ^ 1)) for name, (dtype, one) in read_weights(parent.folder).items()}
    weights["model.embed_tokens.weight"][1][:8] = list(data.digest.encode()[:8])
    tuned = _derived(folder, parent, weights)
    statement = attest(
        "tune",
        describe_checkpoint(tuned),
        [material(parent, "checkpoint"), material(data.folder, "dataset", digest=data.digest)],
        parameters={"type": "sft", "learning_rate": 1e-4},
        details={"seed": 7, "loss": 1.25},
    )
    embed(folder, statement, inherit=[parent.folder, data.folder])
    return tuned


def _merged(folder, tuned):
    first, second = (read_weights(one.folder) for one in tuned)
    weights = {name: (dtype, (one // 2 + second[name][1] // 2)) for name, (dtype, one) in first.items()}
    merged = _derived(folder, tuned[0], weights)
    statement = attest(
        "merge",
        describe_checkpoint(merged),
        [material(one, "checkpoint") for one in tuned],
        parameters={"method": "slerp", "t": 0.5},
    )
    scores = attest(
        "evaluate",
        [describe_value("scores", canonical_digest({"gsm8k": 0.5}))],
        [
            Resource(
                name="checkpoint",
                digest=statement.subject.digest,
                annotations={"attestation": statement.id},
            )
        ],
        parameters={"tasks": ["gsm8k"]},
        details={"scores": {"gsm8k": 0.5}},
    )
    embed(folder, statement, inherit=[one.folder for one in tuned], also=[scores])
    return merged


def restate(folder: Path, name: str, edit) -> str:
    """Rewrite a statement as a forger would: new content, a new file name, no signature; return its id."""
    from regrow.lineage import Statement

    old = next((folder / "provenance").glob(f"{name}*.json"))
    value = json.loads(old.read_text())
    edit(value)
    statement = Statement.from_json(
        json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    )
    old.unlink()
    old.with_suffix(".sig").unlink(missing_ok=True)
    (old.parent / statement.file_name).write_text(statement.to_json())
    return statement.id


def copy_of(folder: Path, target: Path) -> Path:
    """Copy a folder with everything in it."""
    return Path(shutil.copytree(folder, target))


def bare_copy(folder: Path, target: Path) -> Path:
    """Copy a folder without its statements."""
    return Path(shutil.copytree(folder, target, ignore=shutil.ignore_patterns("provenance")))
