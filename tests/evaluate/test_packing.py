from pathlib import Path

import pytest

from regrow.evaluate.packing import FAMILIES, can_pack, pack, packed_model
from tests.tiny import tiny_checkpoint

CONTEXTS = [
    "Question: what is ice?\nAnswer:",
    "Why?",
    "A longer one, that has more to it than the others have.",
]
CHOICES = [" water", " frozen water, cold and hard", " x", " a stone"]
SETTINGS = {
    "gemma2": {"sliding_window": 64, "head_dim": 8},
    "gemma3_text": {"sliding_window": 64, "head_dim": 8},
    "qwen3": {"head_dim": 16},
    "smollm3": {"no_rope_layers": [1, 1, 1, 0, 1, 1]},
}


def requests(tokenizer, contexts=CONTEXTS):
    return [
        ((context, choice), tokenizer(context)["input_ids"], tokenizer(choice)["input_ids"])
        for choice in CHOICES
        for context in contexts
    ]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_equals_lm_evals_own(tmp_path: Path, family):
    from lm_eval.models.huggingface import HFLM

    checkpoint = tiny_checkpoint(tmp_path / family, family=family, **SETTINGS.get(family, {}))
    model, tokenizer = checkpoint.load(), checkpoint.tokenizer()
    assert can_pack(model)
    kind = {"pretrained": model, "tokenizer": tokenizer, "batch_size": 3}
    asked = requests(tokenizer)
    # A question longer than the sliding window takes the other way.
    if "sliding_window" in SETTINGS.get(family, {}):
        asked += requests(tokenizer, ["A very long question that goes on and on. " * 3])
    packed = packed_model()(**kind)._loglikelihood_tokens(asked, disable_tqdm=True)
    plain = HFLM(**kind)._loglikelihood_tokens(asked, disable_tqdm=True)
    assert [value for value, _ in packed] == pytest.approx([value for value, _ in plain], abs=2e-4)
    assert [greedy for _, greedy in packed] == [greedy for _, greedy in plain]
    assert len({round(value, 2) for value, _ in packed}) > len(CONTEXTS)


def test_greedy_answers_are_known(tiny):
    import torch

    model, tokenizer = tiny.load(), tiny.tokenizer()
    context = tokenizer(CONTEXTS[0])["input_ids"]
    answer: list[int] = []
    with torch.no_grad():
        for _ in range(3):
            answer.append(int(model(torch.tensor([context + answer])).logits[0, -1].argmax()))
    other = [*answer[:-1], answer[-1] + 1]
    asked = [(("", ""), context, answer), (("", ""), context, other)]
    found = packed_model()(pretrained=model, tokenizer=tokenizer, batch_size=2)._loglikelihood_tokens(asked)
    assert [greedy for _, greedy in found] == [True, False]


def test_sequences_hold_whole_questions(tiny):
    asked = requests(tiny.tokenizer())
    sequences = list(pack(asked, list(range(len(asked))), 2))
    assert [len(groups) for groups in sequences] == [2, 1]
    assert sorted(number for groups in sequences for group in groups for number in group) == list(
        range(len(asked))
    )
    for groups in sequences:
        for group in groups:
            assert len({tuple(asked[number][1]) for number in group}) == 1
    long = [(("", ""), [1] * 400, [2]), (("", ""), [3] * 400, [2])]
    assert len(list(pack(long, [0, 1], 16))) == 2


def test_other_families_take_lm_evals_own_way(tmp_path: Path):
    checkpoint = tiny_checkpoint(tmp_path / "neox", family="gpt_neox")
    model, tokenizer = checkpoint.load(), checkpoint.tokenizer()
    assert not can_pack(model)
    lm = packed_model()(pretrained=model, tokenizer=tokenizer, batch_size=2)
    assert len(lm._loglikelihood_tokens(requests(tokenizer), disable_tqdm=True)) == 12
