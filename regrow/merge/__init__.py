"""Merging: models that were tuned from one parent become one, streamed from disk to disk."""

from regrow.merge.engine import merge
from regrow.merge.mergekit import MergekitConfig, read_mergekit, write_mergekit
from regrow.merge.result import MergeResult
from regrow.merge.siblings import parent_of, refuse_strangers
from regrow.merge.spec import MergeSpec, Pattern

__all__ = [
    "MergeResult",
    "MergeSpec",
    "MergekitConfig",
    "Pattern",
    "merge",
    "parent_of",
    "read_mergekit",
    "refuse_strangers",
    "write_mergekit",
]
