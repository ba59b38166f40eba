"""The engine `vllm`, run by the Python of the vLLM environment.

PYTHONPATH=<repository> python in_process.py FOLDER PROMPTS.json OUT.json MAX_TOKENS
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


def main() -> None:
    """Generate greedily and write what came."""
    from regrow.checkpoint import Checkpoint
    from regrow.selfdata.engines.base import Sampling
    from regrow.selfdata.engines.spec import VllmSpec
    from regrow.selfdata.engines.vllm import VllmEngine

    folder, prompts, out, most = sys.argv[1:]
    engine = VllmEngine(
        Checkpoint.open(folder), VllmSpec(dtype="float32", max_model_len=1024, enforce_eager=True)
    )
    texts = json.loads(Path(prompts).read_text())
    wrote = engine.generate(texts, Sampling(max_new_tokens=int(most)))
    Path(out).write_text(json.dumps([asdict(one) for one in wrote]))


if __name__ == "__main__":
    main()
