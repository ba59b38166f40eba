"""Greedy generation with vLLM; run by the Python of the vLLM environment, which has neither regrow nor pytest.

    python generate.py MODEL_FOLDER PROMPTS.json OUT.json

PROMPTS.json is a list of texts. OUT.json gets, for each of them, the tokens of the prompt, the generated tokens and
the log-probability of each of these.
"""

import json
import os
import sys
from pathlib import Path

MAX_TOKENS = 24

# vLLM reads these when it is imported. The engine runs in this process: one start and one exit to wait for.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB
os.environ["VLLM_NO_USAGE_STATS"] = "1"
os.environ["VLLM_LOGGING_LEVEL"] = "WARNING"


def main(folder: str, prompts: Path, out: Path) -> None:
    """Generate and write the answers."""
    from vllm import LLM, SamplingParams

    engine = LLM(model=folder, dtype="float32", enforce_eager=True, max_model_len=1024, max_num_seqs=8)
    # Ends of answers are ignored, so that every prompt gives as many tokens to compare.
    settings = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, logprobs=0, ignore_eos=True)
    answers = engine.generate(json.loads(prompts.read_text(encoding="utf-8")), settings, use_tqdm=False)
    found = {
        "prompt_tokens": [list(answer.prompt_token_ids) for answer in answers],
        "tokens": [list(answer.outputs[0].token_ids) for answer in answers],
        "logprobs": [
            [step[token].logprob for token, step in zip(one.token_ids, one.logprobs, strict=True)]
            for one in (answer.outputs[0] for answer in answers)
        ],
    }
    out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
