"""The gate: what a rewritten set must satisfy before a model is trained on it."""

from regrow.quality.gate import Passage, enforce, pages, pass_gate, validate
from regrow.quality.page import explain, page
from regrow.quality.spec import Finding, GateResult, GateSpec

__all__ = [
    "Finding",
    "GateResult",
    "GateSpec",
    "Passage",
    "enforce",
    "explain",
    "page",
    "pages",
    "pass_gate",
    "validate",
]
