"""What a run needs, on paper and before it starts: memory, disk, bytes moved, hours, and what does not fit.

`plan` puts it together for a configuration; `model`, `forward`, `training` and `files` hold the formulas with their
assumptions, `device` what a device is assumed to reach, `assume` what only the data would say, `graph` the steps, and
`schedule` how long they take on so many GPUs. docs/scale.md has the tables.
"""

from regrow.capacity.assume import Assumptions, assumptions
from regrow.capacity.device import DEVICES, Device, device
from regrow.capacity.plan import Plan, make
from regrow.capacity.text import text

__all__ = ["DEVICES", "Assumptions", "Device", "Plan", "assumptions", "device", "make", "text"]
