"""How numbers are written."""

import math
from collections.abc import Mapping
from typing import Any

NO_BREAK = "\u00a0"
MINUS = "\u2212"


def finite(value: Any) -> float | None:
    """Return a number, or none for what is not one."""
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def score_of(model: Mapping[str, Any], task: str) -> tuple[float | None, float | None]:
    """Return a task's value and standard error from an entry of summary.json, which may hold either form."""
    score = (model.get("scores") or {}).get(task)
    if isinstance(score, Mapping):
        return finite(score.get("value")), finite(score.get("stderr"))
    return finite(score), None


def plain(value: Any) -> str:
    """Write a perplexity beside its bar."""
    if value is None:
        return "not measured"
    if not math.isfinite(value):
        return "infinite"
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def perplexity(value: float | None) -> str:
    """Write a perplexity in a table."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "infinite"
    return f"{value:.2f}" if value < 1000 else f"{value:.3g}"


def scaled(count: float) -> str:
    """Write a count with three digits and k, M, G or T."""
    for size, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {sign}"
    return f"{count:.0f}"


def in_bytes(count: float | None) -> str:
    """Write a number of bytes."""
    if count is None:
        return "-"
    for size, sign in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.3g}{NO_BREAK}{sign}"
    return f"{count:.0f}{NO_BREAK}B"


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share in percent."""
    return "-" if value is None else f"{100 * value:.{digits}f}{NO_BREAK}%"


def points(value: float, digits: int = 1) -> str:
    """Write a difference of shares in percentage points, with its sign; one that rounds to nothing has none."""
    text = f"{100 * value:+.{digits}f}".replace("-", MINUS)
    return text if float(f"{100 * value:.{digits}f}") else f"{0:.{digits}f}"


def between(low: float | None, high: float | None, digits: int = 1, *, signed: bool = False) -> str:
    """Write an interval of shares in percent; nothing if it is unknown."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    ends = [points(end, digits) if signed else f"{100 * end:.{digits}f}" for end in (low, high)]
    return f"{ends[0]} to {ends[1]}"


def spread(mean: float, sd: float | None, digits: int = 1, scale: float = 100.0) -> str:
    """Write a mean with its standard deviation, where there is one."""
    middle = f"{scale * mean:,.{digits}f}"
    return middle if sd is None else f"{middle}{NO_BREAK}±{NO_BREAK}{scale * sd:,.{digits}f}"


def p_value(value: float | None) -> str:
    """Write a p-value."""
    if value is None:
        return "-"
    return "<" + NO_BREAK + "0.001" if value < 0.001 else f"{value:.3f}"


def p_text(value: float | None) -> str:
    """Write a p-value in a sentence."""
    if value is None:
        return "p unknown"
    return f"p{NO_BREAK}{p_value(value) if value < 0.001 else '=' + NO_BREAK + p_value(value)}"


def duration(seconds: float) -> str:
    """Write a time."""
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours} h {rest // 60} min"
    minutes, rest_seconds = divmod(seconds, 60)
    return f"{minutes:.0f} min {rest_seconds:.0f} s" if minutes else f"{rest_seconds:.1f} s"


def listed(parts: list[str], word: str = "and") -> str:
    """Join parts with commas and a last word."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"
