"""A chain made by the real stages on a tiny model."""

from pathlib import Path

from regrow.checkpoint import Checkpoint
from regrow.merge import MergeSpec, merge
from regrow.prune import PruneSpec, apply, make_plan
from regrow.source import ModelSpec, resolve_model
from tests.tiny import tiny_checkpoint


def merged_model(folder: Path) -> Checkpoint:
    """Load, cut and merge a tiny model in `folder`; the merged model carries the statements of all stages."""
    tiny_checkpoint(folder / "source")
    base = resolve_model(ModelSpec(source=str(folder / "source"), license="Apache-2.0"), folder / "base")
    cuts = [
        apply(base, make_plan(base, PruneSpec(blocks=1, criterion="random"), None), folder / f"pruned-{one}")
        for one in range(2)
    ]
    return merge(cuts, MergeSpec(method="linear"), folder / "merged").checkpoint
