"""What was trained put into its parent's weights, streamed, and the proof that the result is what was trained.

`fuse` merges an adapter, `overlay` puts in weights that were trained themselves, `verify` proves either.
"""

from regrow.tune.fuse.proof import verify
from regrow.tune.fuse.updates import check_stored
from regrow.tune.fuse.write import fuse, overlay

__all__ = ["check_stored", "fuse", "overlay", "verify"]
