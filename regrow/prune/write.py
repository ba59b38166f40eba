"""A plan applied to a checkpoint, tensor by tensor.

Tensors that stay whole are copied byte for byte under their new name; of the others the part that stays is
read, taken and written. Peak memory is one tensor. Blocks are numbered from 0 and ranges are half-open:
dropping 13:19 removes `model.layers.13` to `model.layers.18`.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from regrow import __version__, tensors
from regrow.anatomy import anatomy_of, widths_of
from regrow.checkpoint import Checkpoint, copy_small_files
from regrow.errors import InputError
from regrow.files import atomic_folder, canonical_digest, write_json
from regrow.lineage import describe_value, material, record
from regrow.prune.config import pruned_config
from regrow.prune.cut import cuts
from regrow.prune.plan import PrunePlan
from regrow.tensors import ShardWriter


def apply(
    checkpoint: Checkpoint, plan: PrunePlan, out: Path, *, max_shard_bytes: int = 5 * 10**9
) -> Checkpoint:
    """Write the pruned checkpoint to `out`, with tokenizer, licence, `plan.json` and a model card.

    Raises:
        InputError: the plan is for another checkpoint, the architecture is not supported, transformers
            refuses the pruned configuration, or `out` exists.
    """
    if plan.source_digest != checkpoint.digest:
        raise InputError(
            f"{checkpoint.folder}: the plan was made for the checkpoint {plan.source_digest[:12]}, this one is "
            f"{checkpoint.digest[:12]}; make a new plan for it"
        )
    started = datetime.now(UTC)
    file = checkpoint.folder / "config.json"
    config = pruned_config(checkpoint.config, plan, file, _resolved(checkpoint.folder))
    anatomy = anatomy_of(checkpoint.config)
    widths = widths_of(checkpoint.config, file) if anatomy else None
    sources = checkpoint.tensors()
    parts = cuts(sources, plan, anatomy, widths, checkpoint.folder)
    with atomic_folder(out) as scratch:
        copy_small_files(checkpoint.folder, scratch)
        write_json(scratch / "config.json", config)
        _resolved(scratch)  # fail now, not at the user's site, if stock transformers refuses it
        plan.save(scratch / "plan.json")
        (scratch / "README.md").write_text(_card(checkpoint, plan), encoding="utf-8")
        if _unfilled(checkpoint.folder, {name: info.shape for name, info in sources.items()}) is None and (
            wrong := _unfilled(scratch, {name: cut.shape for name, cut in parts.items()})
        ):
            raise InputError(
                f"{checkpoint.folder}: the pruned weights would not fill the pruned model ({wrong}); the "
                "architecture has a setting about blocks that regrow does not know, so it is not cut"
            )
        layout = {name: (sources[cut.source].dtype, cut.shape) for name, cut in parts.items()}
        with (
            ShardWriter(scratch, layout, max_shard_bytes=max_shard_bytes) as writer,
            tqdm(total=writer.nbytes, desc="prune", unit="B", unit_scale=True) as bar,
        ):
            for name, cut in parts.items():
                source = sources[cut.source]
                if cut.is_copy:
                    writer.copy(name, source)
                else:
                    writer.put(name, cut.apply(tensors.load(source, cut.source)))
                bar.update(writer.size_of(name))
        pruned = Checkpoint.open(scratch, known=writer.digests)
        stated = plan.model_dump(mode="json")
        materials = [material(checkpoint, "checkpoint"), describe_value("plan", canonical_digest(stated))]
        record(
            "prune", pruned, materials, parameters=stated, started=started, inherit=[checkpoint.folder],
            written=writer,
        )  # fmt: skip
    return pruned.model_copy(update={"folder": out.absolute()})


def _resolved(folder: Path) -> dict[str, Any]:
    """Return a folder's configuration as transformers completes it.

    Raises:
        InputError: transformers refuses it.
    """
    from transformers import AutoConfig

    try:
        found: dict[str, Any] = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        ).to_dict()
        return found
    except Exception as error:
        raise InputError(
            f"{folder.name.removeprefix('.').partition('.partial')[0]}: transformers refuses the configuration "
            f"({' '.join(str(error).split())})"
        ) from error


def _unfilled(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Return a parameter that tensors of these shapes leave empty in the model that a configuration describes.

    transformers would only warn, and fill it with noise. None if all are filled; where that is not so of the
    unpruned model either, because its tensors are converted while they are loaded, nothing can be said.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with init_empty_weights():
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    for name, parameter in model.named_parameters():
        if name not in tied and shapes.get(name) != tuple(parameter.shape):
            return name
    return None


def _card(checkpoint: Checkpoint, plan: PrunePlan) -> str:
    score = "" if plan.score is None else f", value {plan.score:.6g}"
    return (
        "# Pruned model\n\n"
        f"{plan.describe()}\n\n"
        f"- blocks chosen by: {plan.criterion}{score}\n"
        f"- width chosen by: {plan.width_criterion or 'not pruned'}\n"
        f"- base checkpoint: `{checkpoint.digest}`\n"
        "- plan: `plan.json`\n"
        f"- made with regrow {__version__}\n"
    )
