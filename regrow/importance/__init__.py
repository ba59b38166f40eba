"""Importance: which blocks, and which neurons, KV groups and channels, a model can spare."""

from regrow.importance.choose import CRITERIA, Choice, Criterion, choose_blocks
from regrow.importance.measure import compute
from regrow.importance.scores import LayerImportance, SearchScores, WidthScores
from regrow.importance.spec import ImportanceSpec, SearchSpec

__all__ = [
    "CRITERIA",
    "Choice",
    "Criterion",
    "ImportanceSpec",
    "LayerImportance",
    "SearchScores",
    "SearchSpec",
    "WidthScores",
    "choose_blocks",
    "compute",
]
