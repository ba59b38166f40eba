"""The divergence from a teacher: chunked against plain, and what a teacher's top k leave out of it.

    python -m benchmarks.kl [--positions 2048] [--runs 3]

First, loss and gradients for random hidden states and heads with the vocabulary of Llama 3, in bfloat16 where the CPU
multiplies it, with a frozen head (as with an adapter) and with one that is trained. The plain loss is what one writes
with full logits. Then the divergence of SmolLM2-135M-Instruct, blocks cut out, from the whole model, over the answers
of configs/demo.yaml's first dataset.
"""

import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml

from benchmarks.criteria import DEMO, demo_model
from benchmarks.variants import options, run_variants, table
from regrow.checkpoint import Checkpoint
from regrow.prune import PruneSpec, apply, make_plan
from regrow.records import read_records
from regrow.source import DatasetSpec
from regrow.tune.losses import Head, forward_kl, head_of, top_k_kl

VOCABULARY, WIDTH = 128_256, 1024
KEPT = (8, 16, 32, 64, 128, 512)
CUTS = ("13:19", "13:14")
RECORDS = 4

_PLAIN, _PLAIN_TRAINED = "plain, frozen head", "plain, trained head"
_SETUP = """
import torch
from torch.nn import functional as F
from regrow.device import compute_dtype
from regrow.tune.losses import Head, forward_kl
dtype = compute_dtype(torch.bfloat16)
draw = torch.Generator().manual_seed(0)
def random(*shape):
    return torch.randn(shape, generator=draw).to(dtype)
n, v, d = (arguments[name] for name in ("positions", "vocabulary", "width"))
weight, teacher_weight = random(v, d) / 10, random(v, d) / 10
hidden, teacher = random(n, d), random(n, d)
def measured(loss):
    def work(hidden, teacher):
        start = time.process_time()
        value = loss(hidden.requires_grad_(), teacher)
        value.backward()
        spent = time.process_time() - start
        return {"loss": value.item(), "norm": hidden.grad.float().norm().item(), "processor": spent}
    work(hidden[:8].clone(), teacher[:8])  # the first products of a process are slow
    weight.grad = None
    report(lambda: work(hidden, teacher))
def plain(hidden, teacher):
    with torch.no_grad():
        teacher_logits = F.linear(teacher, teacher_weight)
    logits = F.linear(hidden, weight)
    return F.kl_div(
        F.log_softmax(logits.float(), -1), F.log_softmax(teacher_logits.float(), -1), log_target=True, reduction="sum"
    )
def chunked(hidden, teacher):
    return forward_kl(hidden, Head(weight), teacher, Head(teacher_weight))
"""
PAIRS = {
    _PLAIN: {
        _PLAIN: _SETUP + "measured(plain)",
        "forward_kl, frozen head": _SETUP + "measured(chunked)",
    },
    _PLAIN_TRAINED: {
        _PLAIN_TRAINED: _SETUP + "weight.requires_grad_()\nmeasured(plain)",
        "forward_kl, trained head": _SETUP + "weight.requires_grad_()\nmeasured(chunked)",
    },
}


def last_states(checkpoint: Checkpoint, texts: list[tuple[list[int], int]]) -> tuple[torch.Tensor, Head]:
    """Return the last hidden states at the positions that predict answers, and the head."""
    model = checkpoint.load(dtype="float32").eval()
    with torch.no_grad():
        found = [model.base_model(torch.tensor([ids])).last_hidden_state[0, at - 1 : -1] for ids, at in texts]
    return torch.cat(found), head_of(model)


def conversations(base: Checkpoint, parameters: dict[str, Any]) -> list[tuple[list[int], int]]:
    """Return tokens of question and answer, and where the answer begins."""
    records = read_records(DatasetSpec(**parameters["datasets"][0] | {"limit": RECORDS}))
    tokenizer = base.tokenizer()
    found = []
    for record in records:
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": record.instruction}], add_generation_prompt=True, tokenize=False
        )
        prompt, whole = (tokenizer(text)["input_ids"] for text in (asked, asked + record.reference))
        found.append((whole, len(prompt)))
    return found


def compare_top_k(hidden: torch.Tensor, head: Head, teacher: torch.Tensor, teacher_head: Head) -> str:
    """Lay out what k of the teacher's tokens tell, with the tail as a bucket and renormalised, as Markdown."""
    hidden.requires_grad_()

    def measured(loss: torch.Tensor) -> tuple[float, torch.Tensor]:
        (gradient,) = torch.autograd.grad(loss, hidden)
        return loss.item() / len(hidden), gradient.flatten()

    full, gradient = measured(forward_kl(hidden, head, teacher, teacher_head))
    with torch.no_grad():
        logprobs, ids = teacher_head.logits(teacher).log_softmax(-1).topk(max(KEPT), -1)
    lines = [
        f"| k of {head.vocabulary}, full divergence {full:.4f} nats | mass of the tail | tail as bucket | bias "
        "| cosine of gradients | renormalised | bias | cosine of gradients |",
        "| --- |" + " --- |" * 7,
    ]
    for k in KEPT:
        some = logprobs[:, :k]
        tail = 1 - some.exp().sum(-1).mean().item()
        cells = [str(k), f"{tail:.4f}"]
        for kept in (some, some - some.logsumexp(-1, keepdim=True)):
            value, slope = measured(top_k_kl(hidden, head, ids[:, :k], kept))
            alike = torch.cosine_similarity(gradient, slope, dim=0).item()
            cells += [f"{value:.4f}", f"{value / full - 1:+.2%}", f"{alike:.5f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure time and memory, then the bias of top-k, and print Markdown tables."""
    given = options(__doc__, "positions", int, 2048, "positions with a loss")
    arguments = {"positions": given.positions, "vocabulary": VOCABULARY, "width": WIDTH}
    title = f"{given.positions} positions x {VOCABULARY} tokens, d = {WIDTH}, median of {given.runs}"
    for reference, variants in PAIRS.items():
        found = run_variants(variants, arguments, given.runs)
        print(table(title, found, reference) + "\n")
        for name, rounds in found.items():
            answers = [one["answer"] for one in rounds]
            spent = median(answer["processor"] for answer in answers)
            print(
                f"{name}: {spent:.2f} s of processor time, loss {answers[0]['loss']:.2f}, "
                f"2-norm of the gradient {answers[0]['norm']:.4f}"
            )
        print()
    parameters = yaml.safe_load(DEMO.read_text(encoding="utf-8"))["parameters"]
    base = demo_model(parameters)
    texts = conversations(base, parameters)
    teacher, teacher_head = last_states(base, texts)
    for cut in CUTS:
        with tempfile.TemporaryDirectory() as scratch:
            pruned = apply(base, make_plan(base, PruneSpec(drop=cut)), Path(scratch) / "pruned")
            hidden, head = last_states(pruned, texts)
        print(f"blocks [{cut}) of 30 removed, {len(hidden)} answer positions:\n")
        print(compare_top_k(hidden, head, teacher, teacher_head) + "\n")


if __name__ == "__main__":
    main()
