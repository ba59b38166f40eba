import math

import pytest
import torch

from regrow.errors import InputError
from regrow.evaluate import perplexity
from regrow.evaluate.perplexity import windows

TEXTS = ["The river runs to the sea. " * 4, "Ice melts when it is warm."]


def plain(model, ids: list[int], window: int, stride: int) -> tuple[float, int]:
    """Token by token: for each one, the first window that holds it, and a forward pass of its own."""
    losses = {}
    begin = 0
    while True:
        end = min(begin + window, len(ids))
        for target in range(begin + 1, end):
            if target not in losses and not (begin and target < begin):
                with torch.no_grad():
                    logits = model(torch.tensor([ids[begin:target]])).logits[0, -1].double()
                losses[target] = -float(torch.log_softmax(logits, -1)[ids[target]])
        if end == len(ids):
            break
        begin += stride
    return math.exp(sum(losses.values()) / len(losses)), len(losses)


@pytest.mark.parametrize(("window", "stride"), [(16, None), (16, 16), (16, 5), (1000, None), (7, 1)])
def test_equals_the_plain_one(tiny, window, stride):
    model, tokenizer = tiny.load(), tiny.tokenizer()
    ids = tokenizer("\n\n".join(TEXTS))["input_ids"]
    value, tokens = plain(model, ids, window, stride or window)
    found = perplexity(model, tokenizer, TEXTS, window=window, stride=stride, batch_size=3)
    assert found.tokens == tokens
    assert found.value == pytest.approx(value, rel=1e-5)
    assert found.loss == pytest.approx(math.log(value), rel=1e-5)


def test_batch_size_does_not_matter(tiny):
    model, tokenizer = tiny.load(), tiny.tokenizer()
    values = [perplexity(model, tokenizer, TEXTS, window=16, batch_size=size).value for size in (1, 4, 100)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)


@pytest.mark.parametrize(
    ("length", "window", "stride"), [(10, 4, 4), (10, 4, 2), (9, 4, 4), (3, 8, 8), (11, 5, 1)]
)
def test_every_token_is_scored_once(length, window, stride):
    pieces = list(windows(length, window, stride))
    scored = [token for _, end, first in pieces for token in range(first, end)]
    firsts = set(range(0, length, stride)) if stride == window else {0}
    assert sorted(scored) == [token for token in range(length) if token not in firsts]
    assert len(scored) == len(set(scored))
    assert all(first - begin >= 1 for begin, _, first in pieces)


def test_a_first_token_of_the_tokenizer_heads_every_window(tiny):
    from tokenizers.processors import TemplateProcessing

    model, tokenizer = tiny.load(), tiny.tokenizer()
    without = perplexity(model, tokenizer, TEXTS, window=16)
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    found = perplexity(model, tokenizer, TEXTS, window=17)
    assert found.tokens == without.tokens
    stream = tokenizer("\n\n".join(TEXTS), add_special_tokens=False)["input_ids"]
    total = 0.0
    for begin in range(0, len(stream), 16):
        ids = torch.tensor([[bos, *stream[begin : begin + 16]]])
        with torch.no_grad():
            log = torch.log_softmax(model(ids).logits[0].double(), -1)
        total -= sum(float(log[i - 1, ids[0, i]]) for i in range(2, ids.shape[1]))
    assert found.loss == pytest.approx(total / found.tokens, rel=1e-5)


def test_a_ruined_model_has_an_infinite_perplexity(tiny):
    model, tokenizer = tiny.load(), tiny.tokenizer()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    assert perplexity(model, tokenizer, TEXTS, window=16).value == math.inf
    with torch.no_grad():
        model.model.norm.weight.fill_(1e9)
    assert perplexity(model, tokenizer, TEXTS, window=16).value == math.inf


def test_bad_windows_and_texts_are_refused(tiny):
    model, tokenizer = tiny.load(), tiny.tokenizer()
    with pytest.raises(InputError, match="more than the model's 1024"):
        perplexity(model, tokenizer, TEXTS, window=2048)
    with pytest.raises(InputError, match="fewer than two tokens"):
        perplexity(model, tokenizer, ["a"], window=16)
