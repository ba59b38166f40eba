"""Greedy generation with vLLM; run by the Python of the vLLM environment, which has neither regrow nor pytest.

    python generate.py PROMPTS.json FOLDER...

PROMPTS.json is a list of texts. Beside every model folder, FOLDER.json gets, for each text, the tokens of the prompt,
the generated tokens and the log-probability of each of these.
"""

import gc
import json
import os
import sys
import time
from pathlib import Path

MAX_TOKENS = 24

# vLLM reads these when it is imported. The engine runs in this process: starting Python and importing vLLM takes
# longer than loading a small model, so it is done once for all of them.
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB
os.environ["VLLM_NO_USAGE_STATS"] = "1"
os.environ["VLLM_LOGGING_LEVEL"] = "WARNING"


def generate(folder: str, prompts: list[str]) -> dict[str, list]:
    """Load a model, generate and free it again."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    # float32, so that what differs from transformers is rounding that no wrong weight could hide in.
    engine = LLM(model=folder, dtype="float32", enforce_eager=True, max_model_len=1024, max_num_seqs=8)
    # The end of an answer is ignored, so that every prompt gives as many tokens to compare.
    settings = SamplingParams(temperature=0, max_tokens=MAX_TOKENS, logprobs=0, ignore_eos=True)
    answers = engine.generate(prompts, settings, use_tqdm=False)
    found = {
        "prompt_tokens": [list(answer.prompt_token_ids) for answer in answers],
        "tokens": [list(answer.outputs[0].token_ids) for answer in answers],
        "logprobs": [
            [step[token].logprob for token, step in zip(one.token_ids, one.logprobs, strict=True)]
            for one in (answer.outputs[0] for answer in answers)
        ],
    }
    del engine
    cleanup_dist_env_and_memory()
    gc.collect()
    return found


def main(prompts: Path, folders: list[str]) -> None:
    """Write what each model answers; one after the other, so that a failure names its model."""
    texts = json.loads(prompts.read_text(encoding="utf-8"))
    for folder in folders:
        started = time.monotonic()
        answers = generate(folder, texts)
        Path(f"{folder}.json").write_text(json.dumps(answers), encoding="utf-8")
        sys.stderr.write(f"{folder}: {time.monotonic() - started:.1f} s\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
