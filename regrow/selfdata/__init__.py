"""Self-data distillation: the unpruned model rewrites reference answers in its own words."""

from regrow.selfdata.answers import equal, extract, matches
from regrow.selfdata.distill import distill
from regrow.selfdata.engines import Engine, Generation, Sampling, TransformersEngine
from regrow.selfdata.mixture import mix
from regrow.selfdata.prompts import load_template, question, student_messages
from regrow.selfdata.rule import BANNED_PHRASES, DECISIONS, REWRITTEN
from regrow.selfdata.shift import Shift, ShiftSpec
from regrow.selfdata.spec import SelfDataSpec
from regrow.selfdata.store import COLUMNS, SelfData, export

__all__ = [
    "BANNED_PHRASES",
    "COLUMNS",
    "DECISIONS",
    "REWRITTEN",
    "Engine",
    "Generation",
    "Sampling",
    "SelfData",
    "SelfDataSpec",
    "Shift",
    "ShiftSpec",
    "TransformersEngine",
    "distill",
    "equal",
    "export",
    "extract",
    "load_template",
    "matches",
    "mix",
    "question",
    "student_messages",
]
