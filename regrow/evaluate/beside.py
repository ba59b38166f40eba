"""What is measured beside tasks, as tables that people read, in Markdown."""

from collections.abc import Sequence
from typing import Any

from regrow.evaluate.against import Measures
from regrow.evaluate.drift import Drift, Estimate
from regrow.evaluate.health import Health
from regrow.evaluate.markdown import markdown
from regrow.evaluate.speculative import Speculation
from regrow.evaluate.speed import Speed


def measures_table(measures: Measures) -> str:
    """Draw drift, health, cost and drafting, as far as they were measured."""
    parts = []
    if measures.drifts:
        parts += [drift_table(measures.drifts), health_table(measures.drifts)]
    if measures.speeds:
        parts += [size_table(measures.speeds), speed_table(measures.speeds)]
    if measures.drafts:
        parts.append(draft_table(measures.drafts))
    return "\n\n".join(parts)


def drift_table(drifts: Sequence[Drift]) -> str:
    """How far models have moved from the unpruned one, with 95 % intervals over questions."""
    rows = [["drift", "similarity", "agreement", "KL, nats", "same answers"]]
    for one in drifts:
        found = one.estimates()
        rows.append(
            [
                one.name,
                _estimate(found.get("similarity")),
                _estimate(found["agreement"]),
                _estimate(found["kl"]),
                f"{sum(one.same)} of {len(one.same)}",
            ]
        )
    return markdown(rows)


def health_table(drifts: Sequence[Drift]) -> str:
    """Health of every model's own answers, the unpruned model's first."""
    rows = [["answers", "empty", "unfinished", "looping", "repeated 4-grams", "tokens"]]
    rows.append(["unpruned", *_health(drifts[0].base_health)])
    rows += [[one.name, *_health(one.health)] for one in drifts]
    return markdown(rows)


def size_table(speeds: Sequence[Speed]) -> str:
    """What models weigh."""
    rows = [["size", "parameters", "checkpoint", "peak memory", "MFLOPs/token", "counted by torch"]]
    rows += [
        [
            one.name,
            f"{one.parameters / 1e6:.1f} M",
            f"{one.checkpoint_bytes / 2**20:.0f} MiB",
            "-" if one.memory_bytes is None else f"{one.memory_bytes / 2**20:.0f} MiB",
            f"{one.flops_per_token / 1e6:.1f}",
            "-" if one.flops_counted is None else f"{one.flops_counted / 1e6:.1f}",
        ]
        for one in speeds
    ]
    return markdown(rows)


def speed_table(speeds: Sequence[Speed]) -> str:
    """Medians over rounds; of ratios to the unpruned model also the least and the greatest."""
    rows = [
        [
            "speed",
            "batch",
            "prefill, ms",
            "tokens/s",
            "times as fast",
            "step, ms",
            "tokens/s",
            "times as fast",
        ]
    ]
    base = speeds[0]
    for one in speeds:
        for size, row in one.summary(base)["batches"].items():
            rows.append(
                [
                    one.name,
                    size,
                    f"{row['prefill_ms']['value']:.1f}",
                    f"{row['prefill_tokens_per_second']:.0f}",
                    "1" if one is base else _spread(row["prefill_speedup"]),
                    *(
                        [
                            f"{row['decode_ms']['value']:.1f}",
                            f"{row['decode_tokens_per_second']:.1f}",
                            "1" if one is base else _spread(row["decode_speedup"]),
                        ]
                        if "decode_ms" in row
                        else ["-"] * 3
                    ),
                ]
            )
    return markdown(rows)


def draft_table(drafts: Sequence[Speculation]) -> str:
    """Models as drafts, for each number of drafted tokens."""
    head = ["draft", "k", "acceptance", "alpha", "kept/pass", "c", "break-even c", "predicted", "measured"]
    rows = [[*head, "checking, passes", "differing"]]
    for one in drafts:
        found = one.summary()
        for tokens, row in found["drafts"].items():
            rows.append(
                [
                    one.name,
                    tokens,
                    f"{row['acceptance']:.3f}",
                    f"{row['alpha']:.3f}",
                    f"{row['accepted_per_pass']:.2f}",
                    f"{found['cost_ratio']:.2f}",
                    f"{row['break_even']:.2f}",
                    f"{row['predicted']:.2f}",
                    _spread(row["speedup"]),
                    "-" if row["verify_cost"] is None else f"{row['verify_cost']:.2f}",
                    f"{row['differing']} of {one.prompts}",
                ]
            )
    return markdown(rows)


def _estimate(found: Estimate | None) -> str:
    if found is None:
        return "-"
    interval = "" if found.low is None or found.high is None else f" ({found.low:.3f} to {found.high:.3f})"
    return f"{found.value:.3f}{interval}"


def _health(found: Health) -> list[str]:
    shares = (found.empty, found.unfinished, found.looping, found.repetition)
    return [*(f"{share:.1%}" for share in shares), f"{found.length:.1f}"]


def _spread(found: dict[str, Any]) -> str:
    return f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
