"""Answers of every engine against what a user would write: a plain padded `generate` loop, and raw vLLM.

    python -m benchmarks.generation [--prompts 128] [--runs 3]

SmolLM2-135M-Instruct rewrites SciQ answers by the template of the default run; same prompts, same greedy settings. The
loop takes batches of 32 in the order of the data, as most scripts do. regrow's variants are the whole of `distill`:
rendering, the rule, shards that are written to disk, of 32 records where several run at one time; an answer that does
not end counts as empty. Loading models and starting servers is not in the clock. The variants with vLLM run where
`make .venv-vllm/.ready` has put it.
"""

import yaml

from benchmarks.criteria import DEMO, demo_model
from benchmarks.variants import options, run_variants, table
from infra.vllm.serve import ENVIRONMENT, python
from regrow.records import read_records
from regrow.selfdata import load_template
from regrow.selfdata.prompts import render
from regrow.source import DatasetSpec

_PLAIN, _RAW = "plain padded generate loop", "raw vLLM"
_MOST, _SEQUENCES = 256, 64
_DISTILL = """
from regrow.checkpoint import Checkpoint
from regrow.records import Record
from regrow.selfdata import SelfDataSpec, distill
base = Checkpoint.open(arguments["base"])
records = [Record(**one) for one in arguments["records"]]
common = {"template": "choice", "max_new_tokens": arguments["most"]}
def distilled(**settings):
    data = distill(base, records, "open", SelfDataSpec(**common, **settings), out)
    texts = [row["response"] if row["decision"] == "rewritten" else "" for row in data.rows()]
    return {"seconds": data.summary["seconds"], "tokens": data.summary["tokens"], "texts": texts}
"""
VARIANTS = {
    _PLAIN: """
import torch
from regrow.checkpoint import Checkpoint
base = Checkpoint.open(arguments["base"])
tokenizer, model = base.tokenizer(), base.load()
tokenizer.padding_side = "left"
def work():
    count, texts = 0, []
    for i in range(0, len(arguments["prompts"]), 32):
        prompts = arguments["prompts"][i : i + 32]
        batch = tokenizer(prompts, padding=True, add_special_tokens=False, return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(
                **batch, max_new_tokens=arguments["most"], do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        answers = out[:, batch.input_ids.shape[1] :]
        count += int((answers != tokenizer.pad_token_id).sum())
        ended = (answers[:, -1] == tokenizer.eos_token_id) | (answers[:, -1] == tokenizer.pad_token_id)
        written = tokenizer.batch_decode(answers, skip_special_tokens=True)
        texts += [text if end else "" for text, end in zip(written, ended.tolist())]
    return {"tokens": count, "texts": texts}
report(work)
""",
    "regrow, engine transformers": _DISTILL
    + """
report(distilled)
""",
    _RAW: """
os.environ |= arguments["environment"]
from vllm import LLM, SamplingParams
llm = LLM(
    model=arguments["base"], max_model_len=1024, max_num_seqs=arguments["sequences"], enforce_eager=True
)
def work():
    settings = SamplingParams(temperature=0, max_tokens=arguments["most"])
    done = llm.generate(arguments["prompts"], settings, use_tqdm=False)
    answers = [one.outputs[0] for one in done]
    texts = [one.text if one.finish_reason == "stop" else "" for one in answers]
    return {"tokens": sum(len(one.token_ids) for one in answers), "texts": texts}
report(work)
""",
    "regrow, engine vllm": _DISTILL
    + """
os.environ |= arguments["environment"]
vllm = {"max_model_len": 1024, "max_num_seqs": arguments["sequences"], "enforce_eager": True}
report(lambda: distilled(engine="vllm", vllm=vllm, shard_size=32))
""",
    "regrow, engine endpoint": _DISTILL
    + """
from infra.vllm.serve import free_port, vllm_serve
with vllm_serve(base.folder, "base", out.parent / "log", free_port(), max_num_seqs=arguments["sequences"]) as server:
    endpoint = {"url": server.url, "model": "base", "in_flight": arguments["sequences"]}
    report(lambda: distilled(engine="endpoint", endpoint=endpoint, shard_size=32))
""",
}


def main() -> None:
    """Measure every variant in turn and print Markdown tables."""
    given = options(__doc__, "prompts", int, 128, "records")
    parameters = yaml.safe_load(DEMO.read_text(encoding="utf-8"))["parameters"]
    base = demo_model(parameters)
    records = read_records(DatasetSpec(**parameters["datasets"][0] | {"limit": given.prompts}))
    template = load_template("choice", "choice")
    tokenizer = base.chat_tokenizer()
    arguments = {
        "base": str(base.folder),
        "records": [record.model_dump() for record in records],
        "prompts": [render(tokenizer, template.messages(record), template.assistant) for record in records],
        "most": _MOST,
        "sequences": _SEQUENCES,
        "environment": ENVIRONMENT,
    }
    pythons = {_RAW: python(), "regrow, engine vllm": python()}
    found = run_variants(VARIANTS, arguments, given.runs, pythons)
    print(table(f"{len(records)} answers of up to {_MOST} tokens, median of {given.runs}", found, _PLAIN))
    print(f"\n| engine | answer tokens | tokens/s | the same text as {_PLAIN} |\n| --- | --- | --- | --- |")
    plain = [_said(text, template.assistant) for text in found[_PLAIN][0]["answer"]["texts"]]
    for name, (first, *_) in found.items():
        answer = first["answer"]
        texts = [_said(text, template.assistant) for text in answer["texts"]]
        same = sum(a == b for a, b in zip(texts, plain, strict=True))
        rate = answer["tokens"] / first["seconds"]
        print(f"| {name} | {answer['tokens']} | {rate:.0f} | {same} of {len(texts)} |")


def _said(text: str, prefix: str) -> str:
    """Return what the model wrote itself, without outer space."""
    return text.strip().removeprefix(prefix).strip()


if __name__ == "__main__":
    main()
