"""`distill` with the engine `vllm`, run by the Python of the vLLM environment.

PYTHONPATH=<repository> python in_process.py JOB.json
"""

import json
import sys
from pathlib import Path

from regrow.checkpoint import Checkpoint
from regrow.records import Record
from regrow.selfdata import SelfDataSpec, distill


def main() -> None:
    """Rewrite the job's records in its model's words."""
    job = json.loads(Path(sys.argv[1]).read_text())
    records = [Record(**record) for record in job["records"]]
    distill(Checkpoint.open(job["model"]), records, "open", SelfDataSpec(**job["spec"]), Path(job["out"]))


if __name__ == "__main__":
    main()
