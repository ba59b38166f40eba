"""Promotion: a version becomes staging or champion when the gates allow it, and the record says how it came to be."""

from regrow.promotion.agreement import verify_record
from regrow.promotion.gate import Gate
from regrow.promotion.moving import recover
from regrow.promotion.outcome import Decision, Outcome
from regrow.promotion.policy import Attestation, NonInferiority, Policy, Rules
from regrow.promotion.promote import carry_out, decide, promote, repair, rollback
from regrow.promotion.record import Line, Problem, PromotionConflictError, Record, Target
from regrow.promotion.stages import StageMover

__all__ = [
    "Attestation",
    "Decision",
    "Gate",
    "Line",
    "NonInferiority",
    "Outcome",
    "Policy",
    "Problem",
    "PromotionConflictError",
    "Record",
    "Rules",
    "StageMover",
    "Target",
    "carry_out",
    "decide",
    "promote",
    "recover",
    "repair",
    "rollback",
    "verify_record",
]
