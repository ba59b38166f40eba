"""Models merged into one, streamed from their files into shards.

Every tensor is read in pieces, merged in float32 and rounded once to the type that is saved. Memory is a few pieces
of each model, whatever the size of model and tensors.
"""

import logging
import math
import sys
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from regrow.anatomy import BLOCK
from regrow.checkpoint import DTYPES, Checkpoint, copy_small_files
from regrow.errors import InputError
from regrow.files import atomic_folder, read_json, write_json
from regrow.lineage import material
from regrow.lineage import record as attest
from regrow.merge.methods import (
    EXACTLY_PARALLEL,
    PARALLEL,
    Arc,
    Drop,
    Mixer,
    Pieces,
    Sum,
    TaskVectors,
    Trim,
    Whole,
    study,
)
from regrow.merge.result import MergeResult, card, given, record
from regrow.merge.siblings import RECORD, parent_of, refuse_strangers
from regrow.merge.spec import MergeSpec, Parameters
from regrow.merge.stream import FLOATS, Reader, encode
from regrow.tensors import ShardWriter, TensorInfo

log = logging.getLogger(__name__)


def merge(
    models: Sequence[Checkpoint],
    spec: MergeSpec,
    out: Path,
    *,
    base: Checkpoint | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> MergeResult:
    """Write the merge of `models` to `out`, with `merge.json` and a model card.

    Tokenizer, chat template, pruning plan, configuration and other small files are those of the first model. Where
    an interpolation's result is one of the models (t = 0 or 1, or only one model), its bytes are copied.
    slerp and nuslerp of more than two give all the same weight: the result so far meets the k-th model at
    t = 1/k; on an arc the order has a slight influence.

    Args:
        models: at least one; siblings, tuned from one parent.
        spec: method and parameters.
        out: folder that appears.
        base: the models' parent, for the methods that combine task vectors.
        max_shard_bytes: largest shard that is written.

    Raises:
        InputError: the models are not siblings, `base` is missing or of no use, the parameters do not fit the
            number of models, or `out` exists.
    """
    started = datetime.now(UTC)
    _check(models, spec, base)
    job = _Job(list(models), spec, base)
    layout = {name: (job.saved(info), info.shape) for name, info in job.tensors[0].items()}
    with atomic_folder(out) as scratch:
        with (
            Reader() as reader,
            _Ahead(job, list(layout)) as ahead,
            ShardWriter(scratch, layout, max_shard_bytes=max_shard_bytes) as writer,
            tqdm(total=writer.nbytes, desc="merge", unit="B", unit_scale=True, file=sys.stderr,
                 dynamic_ncols=True) as bar,
        ):  # fmt: skip
            for name in layout:
                job.write(name, ahead.mixer(), reader, writer)
                bar.update(writer.size_of(name))
        copy_small_files(models[0].folder, scratch)
        _set_dtype(scratch, spec)
        parent = base.digest if base else next((p[0] for m in models if (p := parent_of(m))), None)
        write_json(scratch / RECORD, record(spec, job.models, base, parent))
        (scratch / "README.md").write_text(card(spec, job.models, base), encoding="utf-8")
        merged = Checkpoint.open(scratch, known=writer.digests)
        sources = [*models, base] if base else models
        attest(
            "merge", merged, [material(one, "checkpoint") for one in sources], parameters=given(spec),
            started=started, inherit=[one.folder for one in sources], written=writer,
        )  # fmt: skip
    result = MergeResult(
        checkpoint=merged.model_copy(update={"folder": out.absolute()}),
        method=spec.method,
        spec=spec,
        models=[model.digest for model in models],
        base=base.digest if base else None,
        tensors=len(layout),
        **(job.arcs.figures() if spec.goes_along_arcs else {}),
    )
    if spec.goes_along_arcs:
        log.info(
            "merged: %d of %d tensors on a line, mean angle %.4f rad", result.linear, result.tensors, result.mean_angle
        )  # fmt: skip
    return result


def _check(models: Sequence[Checkpoint], spec: MergeSpec, base: Checkpoint | None) -> None:
    if not models:
        raise InputError("merge: no models; name at least one")
    if base is None and spec.needs_base:
        raise InputError(
            f"merge: method {spec.method} combines task vectors and needs the models' parent; "
            "name it as base (--base MODEL)"
        )
    if base is not None and not spec.takes_base:
        raise InputError(
            f"merge: method {spec.method} takes no base; leave --base out, or take nuslerp to interpolate task vectors"
        )
    spec.check_count(len(models))
    refuse_strangers(models, spec, base)
    for pattern in spec.unmatched(list(models[0].tensors())):
        log.warning("merge.patterns: %s matches no tensor", pattern)


@dataclass
class _Arcs:
    """What the interpolations met."""

    linear: int = 0
    linear_weights: int = 0
    weights: int = 0
    angles: float = 0.0
    largest: float = 0.0

    def add(self, arc: Arc, count: int) -> None:
        self.weights += count
        self.angles += arc.angle * count
        self.largest = max(self.largest, arc.angle)
        if arc.linear:
            self.linear += 1
            self.linear_weights += count

    def figures(self) -> dict[str, float]:
        return {
            "linear": self.linear,
            "linear_share": self.linear_weights / max(self.weights, 1),
            "mean_angle": self.angles / max(self.weights, 1),
            "largest_angle": self.largest,
        }


class _Job:
    """One merge: whose tensors, by what parameters."""

    def __init__(self, models: list[Checkpoint], spec: MergeSpec, base: Checkpoint | None) -> None:
        self.models, self.spec = models, spec
        self.tensors = [model.tensors() for model in models]
        self.arcs = _Arcs()
        self._base = base.tensors() if base else None
        self._blocks = 1 + max(
            (int(found["number"]) for name in self.tensors[0] if (found := BLOCK.match(name))), default=0
        )

    def saved(self, info: TensorInfo) -> str:
        """Return the type that a tensor is saved in."""
        return (
            info.dtype if self.spec.dtype == "auto" or info.dtype not in FLOATS else DTYPES[self.spec.dtype]
        )

    def study(self, name: str, reader: Reader) -> Mixer | None:
        """Return a tensor's mixer, which has seen what it needs to; None where there is nothing to mix."""
        first = self.tensors[0][name]
        if first.dtype not in FLOATS or not first.count:
            return None
        mixer = self._mixer(name, first.count, self._spec_at(name))
        study(mixer, self._pieces(name, reader))
        return mixer

    def write(self, name: str, mixer: Mixer | None, reader: Reader, writer: ShardWriter) -> None:
        """Merge one tensor."""
        infos = [tensors[name] for tensors in self.tensors]
        first, dtype = infos[0], self.saved(infos[0])
        if mixer is None:
            writer.copy(name, first)
            return
        if isinstance(mixer, Arc):
            if not mixer.finite:
                raise InputError(f"merge: {name} holds values that are not finite, and so has no direction")
            self.arcs.add(mixer, first.count)
        end = self._end(self._spec_at(name))
        if end is not None and infos[end].dtype == dtype:
            writer.copy(name, infos[end])
        else:
            pieces = self._pieces(name, reader)
            writer.put_pieces(name, (encode(mixer.mix(*piece), dtype).data for piece in pieces()))

    def _pieces(self, name: str, reader: Reader) -> Pieces:
        infos = [tensors[name] for tensors in self.tensors]
        if self._base is None:
            return lambda: ((parts, None) for parts in reader.pieces(infos))
        sources = [*infos, self._base[name]]
        return lambda: ((parts[:-1], parts[-1]) for parts in reader.pieces(sources))

    def _spec_at(self, name: str) -> Parameters:
        inside = BLOCK.match(name)
        # As in mergekit: a gradient's last value for the only block, its first outside the blocks.
        last = max(self._blocks - 1, 1)
        place = 0.0 if not inside else 1.0 if self._blocks == 1 else int(inside["number"]) / last
        return self.spec.at(name, place, len(self.models))

    def _end(self, parameters: Parameters) -> int | None:
        """Return the model that the result is equal to, if it is one of them."""
        if len(self.models) == 1 and not self.spec.needs_base:
            return 0
        if self.spec.goes_along_arcs and len(self.models) == 2 and parameters.t in (0, 1):
            return int(parameters.t)
        return None

    def _mixer(self, name: str, count: int, parameters: Parameters) -> Mixer:
        spec = self.spec
        if spec.goes_along_arcs:
            parallel = PARALLEL if spec.method == "slerp" else EXACTLY_PARALLEL
            return Arc(parameters.t if len(self.models) == 2 else None, parallel=parallel)
        total = math.fsum(parameters.weights)
        if spec.normalize and abs(total) < 1e-8:
            raise InputError(
                f"merge.weights: they sum to 0 for {name} and cannot be normalized; set normalize to false"
            )
        if spec.method == "linear":
            return Sum(parameters.weights, total if spec.normalize else 1.0)
        thinned: list[Whole] = []
        for number, density in enumerate(parameters.density):
            if density == 1 or spec.method == "task_arithmetic":
                thinned.append(Whole())
            elif spec.method == "ties":
                thinned.append(Trim(density, count))
            else:
                thinned.append(Drop(density, spec.seed or 0, name, number))
        return TaskVectors(
            parameters.weights,
            thinned,
            elect=spec.method in ("ties", "dare_ties"),
            normalize=bool(spec.normalize),
            scale=1.0 if spec.lambda_ is None else spec.lambda_,
        )


class _Ahead:
    """Studies the next tensors in a thread of its own, while the current one is mixed and written."""

    _TENSORS = 4

    def __init__(self, job: _Job, names: list[str]) -> None:
        self._job = job
        self._names = iter(names)
        self._reader = Reader()
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="study")
        self._waiting: deque[Future[Mixer | None]] = deque()

    def __enter__(self) -> "_Ahead":
        self._reader.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._reader.__exit__(kind, error, trace)

    def mixer(self) -> Mixer | None:
        """Return the mixer of the next tensor in order.

        Raises:
            InputError: a file is truncated, or the parameters do not fit the tensor.
        """
        for name in islice(self._names, self._TENSORS - len(self._waiting)):
            self._waiting.append(self._pool.submit(self._job.study, name, self._reader))
        return self._waiting.popleft().result()


def _set_dtype(folder: Path, spec: MergeSpec) -> None:
    """Name the saved type in config.json where one was chosen."""
    if spec.dtype == "auto":
        return
    config = read_json(folder / "config.json")
    for holder in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in ("dtype", "torch_dtype"):
            if key in holder:
                holder[key] = spec.dtype
    if not {"dtype", "torch_dtype"} & set(config):
        config["dtype"] = spec.dtype
    write_json(folder / "config.json", config)
