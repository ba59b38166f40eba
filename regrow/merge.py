"""Models merged by spherical interpolation, tensor by tensor.

Two siblings, tuned from one parent on different data, are interpolated along the arc between their weights
(SLERP; self-data distillation merges its per-dataset models so). Tensors stream from memory maps into
shards: peak memory is one tensor of each model and the result.
"""

import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from tqdm import tqdm

from regrow import tensors
from regrow.checkpoint import Checkpoint, copy_small_files
from regrow.errors import InputError
from regrow.files import atomic_folder, sha256_of

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
# Beyond this cosine (an angle of 0.032 rad) the arc is a line, and its formula divides by almost zero.
PARALLEL = 0.9995
_FLOATS = ("F32", "F16", "BF16", "F64")
# Keys of config.json that say who wrote it, not what the model is.
_NOT_THE_MODEL = ("_name_or_path", "transformers_version")


class MergeSpec(BaseModel):
    """How models are merged."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["slerp"] = Field(default="slerp", description="slerp: along the arc, tensor by tensor")
    t: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="place on the arc: 0 is the first model, 1 the second; two models only",
    )


class MergeResult(BaseModel):
    """A merged model and what the interpolation met."""

    model_config = ConfigDict(frozen=True)

    checkpoint: Checkpoint
    models: list[str] = Field(description="digests of the merged models, in order")
    tensors: int = Field(description="number of tensors")
    linear: int = Field(description="tensors that were interpolated on a line: nearly parallel, or zero")
    linear_share: float = Field(description="share of the weights (not tensors) that lie in those tensors")
    mean_angle: float = Field(description="mean angle between the two models' tensors in radians, by weights")
    largest_angle: float = Field(description="largest angle between two tensors, in radians")

    def summary(self) -> dict[str, Any]:
        """Facts for metadata and logs."""
        return self.model_dump(mode="json", exclude={"checkpoint"}) | self.checkpoint.summary()


def slerp(a: "torch.Tensor", b: "torch.Tensor", t: float) -> tuple["torch.Tensor", float, bool]:
    """Interpolate two tensors of one shape, each seen as a single vector.

    `sin((1-t) w) / sin(w) a + sin(t w) / sin(w) b`, where w is the angle between a and b. Only the angle is
    taken from unit vectors; a and b keep their lengths. Nearly (anti-)parallel tensors and zero tensors are
    interpolated on the line (the convention of mergekit's slerp).

    Args:
        a: what t = 0 gives.
        b: what t = 1 gives.
        t: between 0 and 1.

    Returns:
        The result in a's type (computed in float32), the angle in radians, and whether the line was taken.
    """
    import torch

    x, y = a.float(), b.float()
    angle, cosine = _angle(x, y)
    linear = cosine is None or abs(cosine) > PARALLEL
    if t == 0:
        return a.clone(), angle, linear
    if t == 1:
        return b.to(a.dtype, copy=True), angle, linear
    # The weights are Python floats (float64): that the two ends get equal weights at t = 0.5 is exact.
    first, second = (
        (1 - t, t)
        if linear
        else (math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle))
    )
    return torch.add(x * first, y * second).to(a.dtype), angle, linear


def _angle(x: "torch.Tensor", y: "torch.Tensor") -> tuple[float, float | None]:
    """Return angle and cosine; no cosine where a tensor is zero, and so has no direction."""
    lengths = float(x.norm()), float(y.norm())
    if not all(length > 0 for length in lengths):
        return 0.0, None
    unit_x, unit_y = (x / lengths[0]).flatten(), (y / lengths[1]).flatten()
    cosine = max(-1.0, min(1.0, float(unit_x @ unit_y)))
    # arccos loses half of the digits near 1; the chords of the unit vectors keep them (Kahan).
    angle = 2 * math.atan2(float((unit_x - unit_y).norm()), float((unit_x + unit_y).norm()))
    return angle, cosine


def merge(
    a: Checkpoint, b: Checkpoint, spec: MergeSpec, out: Path, *, max_shard_bytes: int = 5 * 10**9
) -> MergeResult:
    """Write the model between `a` and `b`.

    Tokenizer, chat template, configuration and other small files are those of `a`.

    Args:
        a: the model that t = 0 gives, byte for byte.
        b: the model that t = 1 gives, byte for byte.
        spec: method and place.
        out: folder that appears.
        max_shard_bytes: largest shard that is written.

    Raises:
        InputError: the models are not siblings (tensors, configuration, tokenizer or chat template differ),
            or `out` exists.
    """
    refuse_strangers(a, b)
    left, right = a.tensors(), b.tensors()
    linear, linear_weights, weights, angles, largest = 0, 0, 0, 0.0, 0.0
    layout = {name: (info.dtype, info.shape) for name, info in left.items()}
    with atomic_folder(out) as scratch:
        with (
            tensors.ShardWriter(scratch, layout, max_shard_bytes=max_shard_bytes) as writer,
            tqdm(desc="merge", total=sum(i.nbytes for i in left.values()), unit="B", unit_scale=True,
                 file=sys.stderr, dynamic_ncols=True) as bar,
        ):  # fmt: skip
            for name, info in left.items():
                if info.dtype in _FLOATS and info.count:
                    mixed, angle, on_line = slerp(
                        tensors.load(info, name), tensors.load(right[name], name), spec.t
                    )
                    writer.put(name, mixed)
                    weights += info.count
                    angles += angle * info.count
                    largest = max(largest, angle)
                    linear += on_line
                    linear_weights += info.count if on_line else 0
                else:
                    writer.copy(name, info)
                bar.update(info.nbytes)
        copy_small_files(a.folder, scratch)
        (scratch / "README.md").write_text(_card([a.digest, b.digest], f"t = {spec.t:g}"), encoding="utf-8")
    result = MergeResult(
        checkpoint=Checkpoint.open(out, known=writer.digests),
        models=[a.digest, b.digest],
        tensors=len(left),
        linear=linear,
        linear_share=linear_weights / max(weights, 1),
        mean_angle=angles / max(weights, 1),
        largest_angle=largest,
    )
    log.info("merged: %d of %d tensors on a line, mean angle %.4f rad", linear, len(left), result.mean_angle)
    return result


def merge_many(models: Sequence[Checkpoint], spec: MergeSpec, out: Path) -> MergeResult:
    """Merge any number of models with equal weights.

    Two models are merged at `spec.t`. More are folded in: the result so far meets the k-th model at t = 1/k,
    so that on a line each would weigh 1/n; on the arc the order has a slight influence. Intermediate results
    are rounded to the models' type. One model is copied.

    Raises:
        InputError: no model, models that are not siblings, `out` exists, or `spec.t` set for more than two.
    """
    if not models:
        raise InputError("merge: no models; name at least one")
    for other in models[1:]:
        refuse_strangers(models[0], other)
    if len(models) == 2:
        return merge(models[0], models[1], spec, out)
    if len(models) > 2 and spec.t != MergeSpec().t:
        raise InputError(
            f"merge.t: {spec.t:g} is for two models; {len(models)} are merged with equal weights"
        )
    if out.exists():
        raise InputError(f"{out}: already exists; name another --out folder or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.folding-", dir=out.parent) as name:
        scratch = Path(name)
        so_far = models[0].copy_to(scratch / "1")
        result = MergeResult(
            checkpoint=so_far, models=[so_far.digest], tensors=len(so_far.tensors()),
            linear=0, linear_share=0.0, mean_angle=0.0, largest_angle=0.0,
        )  # fmt: skip
        for k, model in enumerate(models[1:], start=2):
            result = merge(so_far, model, spec.model_copy(update={"t": 1 / k}), scratch / str(k))
            so_far = result.checkpoint
            (so_far.folder / "README.md").unlink()
        digests = [model.digest for model in models]
        (so_far.folder / "README.md").write_text(
            _card(digests, "equal weights, folded in order"), encoding="utf-8"
        )
        final = Checkpoint.open(so_far.folder).copy_to(out)
    return result.model_copy(update={"checkpoint": final, "models": digests})


def refuse_strangers(a: Checkpoint, b: Checkpoint) -> None:
    """Raise unless two models can be interpolated weight by weight.

    Raises:
        InputError: names the first difference.
    """
    left, right = a.tensors(), b.tensors()
    where = f"{b.folder}: cannot be merged with {a.folder}"
    if odd := sorted(set(left) ^ set(right)):
        raise InputError(f"{where}: tensor {odd[0]} is only in one of them")
    for name, info in left.items():
        for what in ("shape", "dtype"):
            if (one := getattr(info, what)) != (other := getattr(right[name], what)):
                raise InputError(f"{where}: {what} of {name} is {other}, not {one}")
    configs = [{k: v for k, v in model.config.items() if k not in _NOT_THE_MODEL} for model in (a, b)]
    if odd := sorted(k for k in configs[0] | configs[1] if configs[0].get(k) != configs[1].get(k)):
        raise InputError(f"{where}: config.json differs in {odd[0]}")
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja"):
        if _content(a.folder / name) != _content(b.folder / name):
            raise InputError(f"{where}: {name} differs; both must speak with one tokenizer and chat template")
    templates = [_inline_template(model.folder) for model in (a, b)]
    if templates[0] != templates[1]:
        raise InputError(f"{where}: the chat template in tokenizer_config.json differs")


def _content(file: Path) -> str | None:
    return sha256_of(file) if file.exists() else None


def _inline_template(folder: Path) -> Any:
    from regrow.files import read_json

    file = folder / "tokenizer_config.json"
    return read_json(file).get("chat_template") if file.exists() else None


def _card(digests: Sequence[str], how: str) -> str:
    models = "".join(f"- sha256:{digest}\n" for digest in digests)
    return (
        "# A merged language model\n\n"
        f"Spherical interpolation (SLERP), tensor by tensor, {how}, of:\n\n{models}\n"
        "Tokenizer and configuration are those of the first.\n"
    )
