import math

import pytest
import torch

from regrow.errors import InputError
from regrow.evaluate import drift as module
from regrow.evaluate.answers import answers
from regrow.evaluate.drift import Drift, drift, estimate
from tests.evaluate.questions import lively, pruned, suite
from tests.real_models import smollm2
from tests.tiny import tiny_checkpoint, tiny_tokenizer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return lively(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def small(base, tmp_path_factory):
    return pruned(base, tmp_path_factory.mktemp("small") / "pruned")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_unpruned_model_has_not_moved_from_itself(base, tmp_path, dtype):
    found = drift(base, base, suite(tmp_path, dtype=dtype))
    assert set(found.agreement) == {1.0}
    assert set(found.kl) == {0.0}
    assert set(found.same) == {True}
    assert found.health == found.base_health


def test_a_copy_under_another_digest_has_not_moved_either(base, tmp_path):
    """Nothing is short-cut: two loaded models give the same."""
    copy = tiny_checkpoint(tmp_path / "copy", initializer_range=0.2)
    (copy.folder / "note.txt").write_text("another digest", encoding="utf-8")
    copy = type(copy).open(copy.folder)
    assert copy.digest != base.digest
    found = drift(base, copy, suite(tmp_path))
    assert set(found.agreement) == {1.0}
    assert max(found.kl) < 1e-9


def test_figures_are_those_of_one_answer_at_a_time(base, small, tmp_path, monkeypatch):
    """Against plain logits in float64; batches, padding, order and chunks must not show."""
    monkeypatch.setattr(module, "_BUDGET", 7 * 261)
    spec = suite(tmp_path)
    found = drift(base, small, spec)
    theirs = answers(base, spec)
    left, right = base.load(), small.load()
    for i, (prompt, answer) in enumerate(zip(theirs.prompts, theirs.items, strict=True)):
        ids = torch.tensor([[*prompt, *answer.ids]])
        with torch.inference_mode():
            p, q = (
                one(input_ids=ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
                for one in (left, right)
            )
        assert found.tokens[i] == len(answer.ids) == len(p)
        assert found.kl[i] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
        assert found.agreement[i] == float((p.argmax(-1) == q.argmax(-1)).double().mean())
    assert 0 < sum(found.agreement) / 6 < 1


def test_totals_weigh_every_token_alike(base, small, tmp_path):
    found = drift(base, small, suite(tmp_path))
    total = sum(kl * n for kl, n in zip(found.kl, found.tokens, strict=True)) / sum(found.tokens)
    row = found.summary()
    assert row["kl"]["value"] == pytest.approx(total)
    assert row["kl"]["low"] <= total <= row["kl"]["high"]
    assert row["tokens"] == sum(found.tokens)
    assert "similarity" not in row
    assert Drift.model_validate_json(found.model_dump_json()) == found


def test_a_model_seen_before_is_not_loaded(base, small, tmp_path, monkeypatch):
    spec, cache = suite(tmp_path), tmp_path / "cache"
    first = drift(base, small, spec, cache, name="pruned")
    monkeypatch.setattr(module, "_compare", None)
    assert drift(base, small, spec, cache, name="pruned") == first
    assert drift(base, small, spec, cache).name == small.folder.name


def test_models_of_different_tokenizers_are_refused(base, tmp_path):
    other = lively(tmp_path / "other")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "helper")
    tokenizer.save_pretrained(other.folder)
    with pytest.raises(InputError, match="in other tokens than"):
        drift(base, type(other).open(other.folder), suite(tmp_path))


def test_an_interval_covers_what_it_should():
    """Means of 40 draws with weights: 95 % intervals hold the true mean about 95 times in 100."""
    import numpy as np

    random = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        weights = random.integers(5, 60, 40)
        one = estimate(random.normal(0.4, 0.1, 40).tolist(), weights.tolist(), draws=500)
        hits += one.low <= 0.4 <= one.high
    assert 0.90 <= hits / 300 <= 0.98


def test_one_question_has_no_interval():
    assert estimate([0.5]).low is None
    assert estimate([math.inf, 1.0]).value == math.inf


REAL = (
    "What is the capital of France?",
    "How many days are in a week?",
    "What do plants need to grow?",
    "Name three colours of the rainbow.",
    "Why does ice float on water?",
    "Write a short sentence about the sea.",
    "What is the opposite of hot?",
    "Who wrote Romeo and Juliet?",
)


@pytest.mark.real
@pytest.mark.evaluation
def test_a_real_pruned_model_has_moved(tmp_path):
    base = smollm2(tmp_path / "base")
    small = pruned(base, tmp_path / "small", "20:23")
    spec = suite(tmp_path, questions=REAL, answers={"encoder": {}}, dtype="auto")
    cache = tmp_path / "cache"
    row = drift(base, small, spec, cache).summary()
    assert 0.3 < row["agreement"]["value"] < 0.9
    assert 0.05 < row["kl"]["value"] < 5
    assert 0.2 < row["similarity"]["value"] < 0.99
    alike = drift(base, base, spec, cache).summary()
    assert alike["similarity"]["value"] == pytest.approx(1.0, abs=1e-5)
    assert alike["kl"]["value"] == 0.0
