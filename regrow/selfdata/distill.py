"""Self-data distillation: the unpruned model's own words for every reference answer.

The unpruned model writes each answer anew (`prompts`, `engines`); `rule` says whether the rewrite takes the
reference's place. The work is done in shards that are written when finished, so a killed run goes on
where it was and gives the records that an unbroken run gives.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regrow.errors import InputError
from regrow.files import canonical_digest
from regrow.lineage import Resource, describe_folder, describe_value, material
from regrow.lineage import record as attest
from regrow.selfdata import prompts, rule, store
from regrow.selfdata.rewrite import Rewriter
from regrow.selfdata.spec import SelfDataSpec
from regrow.selfdata.store import SelfData

if TYPE_CHECKING:
    from regrow.checkpoint import Checkpoint
    from regrow.records import Record

log = logging.getLogger(__name__)

_Shard = tuple[dict[str, Any], list[dict[str, Any]]]  # header, rows


def distill(
    checkpoint: "Checkpoint",
    records: Sequence["Record"],
    family: str,
    spec: SelfDataSpec,
    out: Path,
    work: Path | None = None,
    read: Mapping[str, int] | None = None,
    origin: Resource | None = None,
) -> SelfData:
    """Let a model rewrite the reference answers of a set.

    Args:
        checkpoint: the unpruned model; needs a chat template.
        records: what to rewrite; the result keeps their order.
        family: choice, math, text or open: how final answers are compared.
        spec: template, decoding and engine.
        out: the folder to write; appears whole, replaces an earlier one, unless that was made of the same
            model, records and settings: then it is returned as it is.
        work: where finished shards live; the same folder on a later run continues it. By default a
            hidden sibling of `out` that goes when `out` is there.
        read: what became of the rows that the records were read from, for the summary
            (`regrow.records.Reading.counts`).
        origin: where the records were read from (`regrow.source.origin`), for the statement.

    Raises:
        InputError: no records, duplicate ids, an unusable template, a model without chat template.
        RegrowError: the engine or the disk gave up; finished shards stay for the next run.
    """
    _check(records)
    started = datetime.now(UTC)
    template = prompts.load_template(spec.template, family, use_reference=spec.use_reference)
    shards = out.parent / f".{out.name}.work" if work is None else work
    rewriter = Rewriter(checkpoint, family, spec, template)
    parts = [records[start : start + spec.shard_size] for start in range(0, len(records), spec.shard_size)]
    keys = [rewriter.key(part) for part in parts]
    if (finished := _finished(out, canonical_digest(keys))) is not None:
        return finished
    rows: list[dict[str, Any]] = []
    headers: list[dict[str, Any]] = []
    with _bar(len(records)) as bar:
        jobs = [
            _Job(part, shards / f"shard-{number:05d}-{key[:16]}.jsonl", rewriter, bar.update)
            for number, (part, key) in enumerate(zip(parts, keys, strict=True))
        ]
        found = {job.file: shard for job in jobs if (shard := job.finished()) is not None}
        for header, done in _all(jobs, found, rewriter):
            headers.append(header)
            rows += done
            bar.set_postfix(accepted=f"{rule.acceptance_rate(rows):.0%}")
    tokens, seconds = sum(header["tokens"] for header in headers), _wall_clock(headers)
    details = {
        "acceptance_by_attempt": rule.acceptance_by_attempt(rows, spec.attempts),
        "tokens": tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
        "shards": len(jobs),
        "shards_reused": len(found),
        **({"read": dict(read)} if read else {}),
        "family": family,
        "template": template.name,
        "use_reference": spec.use_reference,
        "engine": spec.engine,
        "seed": spec.seed,
        "model": checkpoint.digest,
        "key": canonical_digest(keys),
        "spec": spec.model_dump(mode="json"),
    }
    data = store.save(rows, details, out)
    _state(data, checkpoint, records, origin, started)
    if work is None:
        shutil.rmtree(shards, ignore_errors=True)
    log.info("%s: %d records, %.1f%% rewritten", out.name, len(rows), 100 * rule.acceptance_rate(rows))
    return data


def _state(
    data: SelfData,
    checkpoint: "Checkpoint",
    records: Sequence["Record"],
    origin: Resource | None,
    started: datetime,
) -> None:
    """State which model wrote the set, from which records, by which settings, and how much was taken."""
    read = describe_value("records", canonical_digest([one.model_dump(mode="json") for one in records]))
    parts = (
        "records",
        "decisions",
        "acceptance_rate",
        "tokens",
        "read",
        "template",
        "engine",
        "seed",
        "family",
    )
    attest(
        "distill",
        (data.folder, describe_folder(data.folder, "dataset", data.digest)),
        [material(checkpoint, "checkpoint"), read, *([origin] if origin else [])],
        parameters=data.summary["spec"],
        details={name: data.summary[name] for name in parts if name in data.summary},
        started=started,
        inherit=[checkpoint.folder],
    )


@dataclass(frozen=True, slots=True)
class _Job:
    """A shard to be made, and the file that says that it is."""

    part: Sequence["Record"]
    file: Path
    rewriter: Rewriter
    progress: Callable[[int], Any]

    def finished(self) -> _Shard | None:
        """Return the shard if an earlier run made it."""
        shard = store.read_shard(self.file, self.part)
        if shard is not None:
            self.progress(len(self.part))
        return shard

    def run(self) -> _Shard:
        """Make the shard, and write it."""
        shard = self.rewriter.shard(self.part, self.progress)
        store.write_shard(self.file, *shard)
        return shard


def _all(jobs: Sequence[_Job], found: dict[Path, _Shard], rewriter: Rewriter) -> Iterator[_Shard]:
    """Yield every shard in order; those that were not found are made, several at one time where it helps."""
    missing = [job for job in jobs if job.file not in found]
    at_once = rewriter.start() if missing else 1
    if at_once == 1:
        yield from (found.get(job.file) or job.run() for job in jobs)
        return
    with ThreadPoolExecutor(max_workers=at_once) as pool:
        running = {job.file: pool.submit(job.run) for job in missing}
        try:
            for job in jobs:
                yield found.get(job.file) or running[job.file].result()
        except BaseException:
            # An error, or Ctrl-C: shards that are being made would keep the process until they are whole.
            pool.shutdown(wait=False, cancel_futures=True)
            rewriter.stop()
            raise


def _finished(out: Path, key: str) -> SelfData | None:
    """Return the set if an earlier call with the same everything made it."""
    if not (out / "summary.json").exists():
        return None
    try:
        data = SelfData.open(out)
    except InputError:
        return None  # damaged: it is made again
    if data.summary.get("key") != key:  # what passed the gate has none
        return None
    log.info("%s: made before with the same model, records and settings; nothing to do", out)
    return data


def _wall_clock(headers: Iterable[dict[str, Any]]) -> float:
    """Return the seconds in which some shard was being made; shards of one run overlap, runs have pauses."""
    total, end = 0.0, 0.0
    for began, seconds in sorted((header["began"], header["seconds"]) for header in headers):
        total += max(0.0, began + seconds - max(began, end))
        end = max(end, began + seconds)
    return total


def _check(records: Sequence["Record"]) -> None:
    if not records:
        raise InputError("self-data: the dataset has no records; check its source, adapter and limit")
    twice = [name for name, count in Counter(record.id for record in records).items() if count > 1]
    if twice:
        raise InputError(f"self-data: record id {twice[0]} occurs twice; ids must be unique")


def _bar(total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="self-data", unit="answer", dynamic_ncols=True)
