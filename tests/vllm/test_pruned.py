"""vLLM, the real one, loads models that regrow pruned and computes what it should.

Two references, neither of which is vLLM: stock transformers on the same folder, and surgery on the unpruned model
that is loaded whole (`tests/families.py`), which knows nothing of the pruned folder. A model that is cut wrongly
agrees with the first and not with the second.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from regrow.anatomy import decoder_blocks, widths_of
from regrow.importance import ImportanceSpec, compute
from regrow.prune import PruneSpec, apply, make_plan
from tests.families import mask_live
from tests.real_models import smollm2

# Also `real`: whoever leaves out the real model's tests by -m "not real" has lifted the default -m "not vllm".
pytestmark = [pytest.mark.vllm, pytest.mark.real]

# What is removed, and the type of the stored weights. Removed channels rescale the norms, whose new weights would be
# rounded in bfloat16: in float32 they are not, so one tolerance is enough for all.
MODELS = {
    "depth": (PruneSpec(drop="13:19"), "bfloat16"),
    "width": (PruneSpec(neurons=1152, groups=2), "bfloat16"),
    "depth-and-channels": (PruneSpec(drop="13:19", channels=504), "float32"),
}
# How the shapes of the files change: blocks, neurons, query heads, KV heads, channels.
SHAPES = {
    "depth": (24, 1536, 9, 3, 576),
    "width": (30, 1152, 6, 2, 576),
    "depth-and-channels": (24, 1536, 9, 3, 504),
}
# Largest difference of a log-probability; everybody computes in float32 or better, and 5e-5 was seen. One norm that is
# not rescaled makes 0.1, two neighbouring blocks that change places 1.6 and more.
TOLERANCE = 1e-3

CALIBRATION = [
    "The river rises in the hills and reaches the sea two hundred miles further south.",
    "Add the flour to the butter and sugar, and stir until no lumps are left.",
    "In 1905 the town had four thousand inhabitants, a railway station and two mills.",
    "A prime number has exactly two divisors, one and itself.",
    "She closed the door, sat down at the table and began to read the letter again.",
    "Water boils at a lower temperature on a mountain because the air pressure is lower there.",
    "def area(width, height):\n    return width * height",
    "The committee will meet on Thursday to discuss the budget for the coming year.",
    "Bees find their way back to the hive by the position of the sun.",
    "If a train travels sixty miles in one hour, it travels a mile every minute.",
    "The museum is open from nine to five, except on Mondays and public holidays.",
    "Plants take in carbon dioxide through their leaves and give off oxygen.",
    "He had never seen the city before, and every street seemed wider than the last.",
    "To change a tyre, loosen the nuts before you lift the car off the ground.",
    "The treaty was signed after six weeks of talks, and the soldiers went home.",
    "Sound travels faster through water than through air.",
    "Question: Which planet is closest to the sun? Answer: Mercury.",
    "The cat slept on the window sill until the rain stopped.",
    "Most of the world's coffee grows between the two tropics.",
    "A triangle with sides of three, four and five has a right angle.",
    "Please reply by the end of the month, and enclose a copy of the invoice.",
    "The old bridge was too narrow for lorries, so a new one was built beside it.",
    "Copper conducts electricity well, which is why wires are made of it.",
    "They planted apple trees along the wall and harvested them for forty years.",
]
PLAIN = [
    "The capital of France is",
    "Once upon a time there was a small village by the sea, where",
    "def fibonacci(n):\n",
    # Longer than a block of vLLM's cache.
    " ".join(CALIBRATION[:12]) + " In short,",
]
QUESTIONS = ["Why is the sky blue?", "Write a short poem about grass that grows back after it was cut."]


@pytest.fixture(scope="module")
def bases(python, tmp_path_factory):
    """The unpruned model by stored type."""
    folder = tmp_path_factory.mktemp("vllm")
    return {dtype: smollm2(folder / dtype, dtype) for dtype in ("bfloat16", "float32")}


@pytest.fixture(scope="module")
def pruned(bases):
    """Every pruned model with its plan."""
    measured = {
        dtype: compute(base, CALIBRATION, ImportanceSpec(max_tokens=64)) for dtype, base in bases.items()
    }
    found = {}
    for name, (spec, dtype) in MODELS.items():
        plan = make_plan(bases[dtype], spec, measured[dtype])
        found[name] = plan, apply(bases[dtype], plan, bases[dtype].folder.parent / name)
    return found


@pytest.fixture(scope="module")
def prompts(bases):
    tokenizer = bases["bfloat16"].chat_tokenizer()
    chats = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
        for question in QUESTIONS
    ]
    return PLAIN + chats


@pytest.fixture(scope="module")
def answers(python, pruned, prompts, tmp_path_factory):
    """What vLLM generates, for every model that it could load, and the end of its log."""
    file = tmp_path_factory.mktemp("prompts") / "prompts.json"
    file.write_text(json.dumps(prompts), encoding="utf-8")
    folders = {name: model.folder for name, (_, model) in pruned.items()}
    done = subprocess.run(
        [python, Path(__file__).with_name("generate.py"), file, *folders.values()],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        cwd=file.parent,  # not the checkout, whose packages must play no part
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=900,
    )
    found = {}
    for name, folder in folders.items():
        out = Path(f"{folder}.json")
        found[name] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else None
    return found, done.stdout[-6000:]


@torch.inference_mode()
def compared(answers, model) -> tuple[float, float]:
    """How far vLLM is from a model that reads the same tokens.

    Returns the largest difference of a generated token's log-probability, and how much less likely than the model's
    own greedy choice a token is at most.
    """
    difference = behind = 0.0
    for prompt, tokens, logprobs in zip(*answers.values(), strict=True):
        logits = model(torch.tensor([prompt + tokens[:-1]]), use_cache=False).logits[0, len(prompt) - 1 :]
        expected = logits.double().log_softmax(-1)
        chosen = expected.gather(-1, torch.tensor(tokens)[:, None])[:, 0]
        difference = max(difference, (chosen - torch.tensor(logprobs).double()).abs().max().item())
        behind = max(behind, (expected.max(-1).values - chosen).max().item())
    return difference, behind


@pytest.mark.parametrize("name", MODELS)
def test_vllm_generates_what_the_pruned_model_would(bases, pruned, prompts, answers, name):
    found, log = answers
    plan, model = pruned[name]
    base = bases[MODELS[name][1]]
    assert found[name], f"vLLM gave no answers; its log ends with:\n{log}"
    assert found[name]["prompt_tokens"] == base.tokenizer()(prompts)["input_ids"]
    assert [len(tokens) for tokens in found[name]["tokens"]] == [24] * len(prompts)
    widths = widths_of(model.config, "config.json")
    shape = (model.blocks, widths.neurons, widths.heads, widths.groups, widths.channels)
    assert shape == SHAPES[name]
    assert max(compared(found[name], model.load(dtype="float32"))) < TOLERANCE
    surgery = mask_live(base, plan)
    assert max(compared(found[name], surgery)) < TOLERANCE
    # Were the blocks in another order, the comparison would show it.
    blocks = decoder_blocks(surgery, model.blocks)
    blocks[10], blocks[11] = blocks[11], blocks[10]
    assert compared(found[name], surgery)[0] > 100 * TOLERANCE
