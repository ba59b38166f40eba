"""Pruning: a plan says what stays, and is applied to a checkpoint without loading it."""

from regrow.prune.choose import make_plan
from regrow.prune.config import pruned_config
from regrow.prune.plan import KeptUnits, PrunePlan
from regrow.prune.spec import PruneSpec
from regrow.prune.units import format_units, parse_units
from regrow.prune.write import apply

__all__ = [
    "KeptUnits",
    "PrunePlan",
    "PruneSpec",
    "apply",
    "format_units",
    "make_plan",
    "parse_units",
    "pruned_config",
]
