"""LoRA on examples of mixed lengths: regrow's trainer against TRL's SFTTrainer as a user would configure it.

    python -m benchmarks.tuning [--examples 256] [--runs 3] [--seed 0]

SmolLM2-135M-Instruct, six blocks cut, in bfloat16 where the CPU multiplies it; the references of the two sets of
configs/demo.yaml, long and short, in the chat template; completion-only loss, the same adapter, optimiser, schedule,
batch of 8 and number of steps. TRL: conversational prompt-completion data, bf16, no gradient checkpointing. Its packing
is left out: it cuts rows of equal length, so that a step has other examples. The clock runs from the first step to the
last; loading and merging are not in it. Peak memory is what the process grew to by the last step. Steps hold other
examples in other orders, so the models are compared by their loss on the same examples afterwards.
"""

import json
import tempfile
from pathlib import Path
from statistics import median

import yaml

from benchmarks.criteria import DEMO, demo_model
from benchmarks.variants import options, run_variants, table
from regrow.prune import PruneSpec, apply, make_plan
from regrow.records import read_records
from regrow.source import DatasetSpec

_PLAIN = "TRL SFTTrainer"
_CLOCK = """
import resource, time
import torch
from regrow.checkpoint import Checkpoint
from regrow.tune.data import encode, read_rows
from regrow.tune.recipe import Lora, Sft
def high(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
parent = Checkpoint.open(arguments["model"])
recipe = Sft(
    trainable=Lora(r=16, alpha=32), learning_rate=1e-3, batch_size=8, max_steps=arguments["steps"], max_length=1024,
    save_every=10**6, seed=arguments["seed"],
)
examples = encode(read_rows(Path(arguments["data"]), recipe), parent.chat_tokenizer(), recipe)
def left(model):
    # nats per response token of the first and the last eight examples, by the model's own loss
    total, count = 0.0, 0
    for number in [*range(8), *range(len(examples) - 8, len(examples))]:
        ids, prompt = examples.tokens[number], examples.prompts[number]
        labels = torch.tensor([[-100] * prompt + ids[prompt:]])
        with torch.inference_mode():
            total += float(model(input_ids=torch.tensor([ids]), labels=labels).loss) * (len(ids) - prompt)
        count += len(ids) - prompt
    return total / count
"""
_TRL = (
    _CLOCK
    + """
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer
dtype = parent.compute_dtype()
rows = [json.loads(line) for line in Path(arguments["data"]).read_text().splitlines()]
turn = lambda role, text: [{"role": role, "content": text}]
dataset = Dataset.from_list([
    {"prompt": turn("user", row["instruction"]), "completion": turn("assistant", row["response"])} for row in rows
])
class Clock(TrainerCallback):
    losses = []
    def on_train_begin(self, *_, **__): self.start = time.perf_counter()
    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            self.losses.append(logs["loss"]); self.seconds = time.perf_counter() - self.start
            self.tokens = logs["num_tokens"]; self.peak = high()
clock = Clock()
def work():
    before = high()
    trainer = SFTTrainer(
        model=parent.load(dtype=str(dtype).removeprefix("torch."), device="cpu"),
        args=SFTConfig(
            output_dir=str(out), per_device_train_batch_size=8, learning_rate=1e-3, lr_scheduler_type="cosine",
            warmup_steps=0.05, max_steps=arguments["steps"], max_length=1024, bf16=dtype == torch.bfloat16,
            gradient_checkpointing=False, use_cpu=True, logging_steps=1, save_strategy="no", report_to="none",
            seed=arguments["seed"],
        ),
        train_dataset=dataset, processing_class=parent.chat_tokenizer(), callbacks=[clock],
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    return {"seconds": clock.seconds, "tokens": clock.tokens, "peak_mib": clock.peak - before,
            "before": left(parent.load(device="cpu")), "after": left(trainer.model.merge_and_unload().eval())}
report(work)
"""
)
_REGROW = (
    _CLOCK
    + """
from regrow.tune import Launch, worker
from regrow.tune.prepare import prepare
import regrow.tune.fuse, trl, peft
recipe = recipe.model_copy(update={"packing": PACKING})
job = prepare(parent, None, examples, recipe, out, Launch())
def work():
    before = high()
    worker.train(job)
    result = json.loads((job.folder / "result.json").read_text())
    return {
        "seconds": result["seconds"], "tokens": result["tokens"],
        "peak_mib": result["peak_bytes"] / 2**20 - before,
        "before": left(parent.load(device="cpu")),
        "after": left(Checkpoint.open(job.folder / "merged").load(device="cpu")),
    }
report(work)
"""
)
VARIANTS = {
    _PLAIN: _TRL,
    "regrow": _REGROW.replace("PACKING", "False"),
    "regrow, packing": _REGROW.replace("PACKING", "True"),
}


def main() -> None:
    """Measure and print the tables."""
    asked = options(__doc__, "examples", int, 256, "examples, half of each set", seed=True)
    config = yaml.safe_load(DEMO.read_text(encoding="utf-8"))["parameters"]
    with tempfile.TemporaryDirectory() as scratch:
        base = demo_model(config)
        pruned = apply(base, make_plan(base, PruneSpec(drop="13:19"), None), Path(scratch) / "pruned")
        data = Path(scratch) / "data.jsonl"
        with data.open("w", encoding="utf-8") as stream:
            for dataset in config["datasets"]:
                spec = DatasetSpec.model_validate(dataset | {"limit": asked.examples // 2})
                for record in read_records(spec):
                    stream.write(
                        json.dumps({"instruction": record.instruction, "response": record.reference}) + "\n"
                    )
        arguments = {
            "model": str(pruned.folder),
            "data": str(data),
            "steps": asked.examples // 8,
            "seed": asked.seed,
        }
        found = run_variants(VARIANTS, arguments, asked.runs)
    print(table(f"{asked.examples} examples, batch 8, median of {asked.runs}", found, _PLAIN))
    print("\n| | tokens | tokens/s | over TRL | loss on 16 examples before | after |")
    print("| --- | --- | --- | --- | --- | --- |")
    rates = {
        name: median(one["answer"]["tokens"] / one["seconds"] for one in rounds)
        for name, rounds in found.items()
    }
    for name, rounds in found.items():
        answer = rounds[0]["answer"]
        print(
            f"| {name} | {answer['tokens']:.0f} | {rates[name]:.0f} | {rates[name] / rates[_PLAIN]:.2f} | "
            f"{answer['before']:.3f} | {answer['after']:.3f} |"
        )


if __name__ == "__main__":
    main()
