"""Studies: the same model, cut and data, treated in several ways, and what sets the ways apart."""

from regrow.study.result import Outcome, Pair, Row, Spread, StudyResult, gather, pooled
from regrow.study.spec import Arm, Cell, StudyConfig
from regrow.study.tables import tables

__all__ = [
    "Arm",
    "Cell",
    "Outcome",
    "Pair",
    "Row",
    "Spread",
    "StudyConfig",
    "StudyResult",
    "gather",
    "pooled",
    "tables",
]
