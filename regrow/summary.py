"""`summary.json`: what a run made, for other programs. The keys are stable."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from regrow.checkpoint import Checkpoint
from regrow.errors import InputError
from regrow.evaluate import Measures
from regrow.evaluate.scores import Scores, recovery_interval
from regrow.quality import GateResult
from regrow.registry import Registered
from regrow.selfdata import SelfData, Shift


def best_candidate(scores: Sequence[Scores], base: Scores) -> Scores:
    """Return the candidate with the highest recovery; among equals the one with the lowest perplexity.

    The choice is made on the evaluated items themselves, so the chosen model's own score is a little
    flattered: with few items, differences between candidates are mostly noise.

    Raises:
        InputError: there are no candidates.
    """
    if not scores:
        raise InputError("register: no candidate was evaluated")

    def quality(one: Scores) -> tuple[float, float]:
        mean = one.mean / base.mean if one.scores and base.scores and base.mean else 0.0
        return mean, -(one.perplexity if one.perplexity is not None else float("inf"))

    return max(scores, key=quality)


def summarise(
    models: Sequence[tuple[Checkpoint, Scores]],
    data: Sequence[SelfData],
    gates: Sequence[GateResult],
    shifts: Sequence[Shift],
    measures: Measures,
    registered: Registered,
    versions: Mapping[str, str],
    *,
    seconds: Mapping[str, float],
    peak_memory_bytes: int,
) -> dict[str, Any]:
    """Put a run together.

    Args:
        models: every evaluated model; the first is the unpruned one.
        data: the rewritten sets, before the gate.
        gates: the verdict on each of them, in the same order.
        shifts: rewrites against references in each of them, in the same order.
        measures: drift, speed and drafting, as far as they were measured.
        registered: the version of the best model.
        versions: number of each model's version, by its name.
        seconds: wall time by stage.
        peak_memory_bytes: most memory that any stage's processes held.
    """
    base = models[0][1]
    return {
        "models": [
            _model(checkpoint, scores, base) | {"version": versions.get(scores.name)}
            for checkpoint, scores in models
        ],
        "registered": registered.model_dump(include={"name", "version", "alias", "digest"}),
        "datasets": [
            {
                "name": gate.dataset,
                "records": one.summary["records"],
                "accepted": gate.records,
                "acceptance_rate": one.summary["acceptance_rate"],
                "acceptance_by_attempt": one.summary["acceptance_by_attempt"],
                "gate": "passed" if gate.passed else "failed",
                "digest": gate.digest,
                "shift": shift.summary(),
            }
            for one, gate, shift in zip(data, gates, shifts, strict=True)
        ],
        "measures": measures.summary(),
        "seconds": dict(seconds),
        "peak_memory_bytes": peak_memory_bytes,
    }


def _model(checkpoint: Checkpoint, scores: Scores, base: Scores) -> dict[str, Any]:
    entry = scores.summary() | {"folder": str(checkpoint.folder)}
    if entry["perplexity"] is not None and not math.isfinite(entry["perplexity"]):
        entry["perplexity"] = None  # a ruined model; JSON has no infinity
    if scores.scores:
        interval = recovery_interval(scores, base)
        entry["recovery"] = interval.value
        entry["recovery_interval"] = [interval.low, interval.high]
    else:
        entry["recovery"] = None
    return entry
