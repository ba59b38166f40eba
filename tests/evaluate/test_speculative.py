import math

import pytest
from pydantic import ValidationError

from regrow.errors import InputError
from regrow.evaluate.speculative import Drafting, break_even, draft_for, speedup, tokens_per_pass
from tests.evaluate.questions import lively, pruned, suite
from tests.real_models import smollm2
from tests.tiny import tiny_checkpoint

DRAFT = {"tokens": [1, 3], "new_tokens": 20, "limit": 5, "rounds": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return lively(tmp_path_factory.mktemp("target") / "base")


@pytest.fixture(scope="module")
def small(base, tmp_path_factory):
    return pruned(base, tmp_path_factory.mktemp("draft") / "pruned")


def test_output_is_the_targets_own(base, small, tmp_path):
    result = draft_for(base, small, suite(tmp_path, draft=DRAFT), name="pruned")
    assert result.prompts == 5
    for run in result.runs:
        assert run.differing == 0
        assert 0 <= run.accepted <= run.drafted
        assert run.new_tokens <= 5 * 20
        # Every pass yields what it keeps of the draft and, unless the answer ended before, one token.
        assert run.passes + run.accepted - 5 <= run.new_tokens <= run.passes + run.accepted
        assert run.refused <= run.passes
        assert len(run.rates) == 2


def test_a_model_accepts_all_of_its_own_draft(base, tmp_path):
    result = draft_for(base, base, suite(tmp_path, draft=DRAFT))
    for run in result.runs:
        assert (run.refused, run.differing) == (0, 0)
        assert run.alpha == 1.0
        assert run.passes < run.new_tokens
    one, three = result.runs
    assert three.passes < one.passes


def test_acceptance_is_that_of_greedy_decoding_by_hand(base, small, tmp_path):
    """Counted again without transformers' assisted generation: draft, compare, keep, add one."""
    import torch

    from regrow.evaluate.answers import prompt_tokens, read_questions
    from regrow.evaluate.speculative import _ends

    spec = suite(tmp_path, draft={"tokens": [3], "new_tokens": 20, "limit": 3, "rounds": 1})
    found = draft_for(base, small, spec).runs[0]
    target, draft, ends = base.load(), small.load(), _ends(base)

    def likeliest(model, ids):
        with torch.inference_mode():
            return model(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()

    passes = drafted = accepted = refused = new = 0
    for prompt in prompt_tokens(base, read_questions(spec)[:3]):
        ids, done = list(prompt), False
        while not done:
            left = 20 - (len(ids) - len(prompt))
            guess = []
            while len(guess) < min(3, left - 1) and not (guess and guess[-1] in ends):
                guess.append(likeliest(draft, ids + guess)[-1])
            says = likeliest(target, ids + guess)[len(ids) - 1 :]
            kept = 0
            while kept < len(guess) and guess[kept] == says[kept]:
                kept += 1
            passes, drafted = passes + 1, drafted + len(guess)
            valid = says[: kept + 1]
            ending = [i for i, token in enumerate(valid) if token in ends]
            valid = valid[: ending[0] + 1] if ending else valid
            accepted += min(kept, len(valid))
            refused += kept < len(guess) and kept < len(valid)
            ids += valid
            new += len(valid)
            done = bool(ending) or len(ids) - len(prompt) >= 20
    assert accepted > 0
    assert refused > 0
    assert (found.passes, found.drafted, found.accepted, found.refused, found.new_tokens) == (
        passes,
        drafted,
        accepted,
        refused,
        new,
    )


def test_the_formulas_at_their_ends():
    assert tokens_per_pass(0.0, 4) == 1.0
    assert tokens_per_pass(1.0, 4) == 5.0
    assert tokens_per_pass(0.8, 5) == pytest.approx((1 - 0.8**6) / 0.2)
    # Drafting for nothing costs nothing and yields the tokens; a draft as dear as the target never pays.
    assert speedup(0.8, 5, 0.0) == pytest.approx(tokens_per_pass(0.8, 5))
    assert speedup(0.99, 3, 1.0) < 1
    for alpha in (0.2, 0.6, 0.95):
        for tokens in (1, 2, 5):
            assert speedup(alpha, tokens, break_even(alpha, tokens)) == pytest.approx(1.0)


def test_alpha_leaves_out_what_nobody_judged():
    """Three drafted each time: 1 kept and 1 refused, then 3 kept: of six, five were looked at."""
    run = Drafting(
        tokens=3,
        passes=2,
        new_tokens=6,
        drafted=6,
        accepted=4,
        refused=1,
        differing=0,
        verify_seconds=None,
        rates=(),
    )
    assert run.acceptance == pytest.approx(4 / 6)
    assert run.alpha == pytest.approx(4 / 5)


def test_the_summary_is_of_the_counts(base, small, tmp_path):
    result = draft_for(base, small, suite(tmp_path, draft=DRAFT), tmp_path / "cache", name="pruned")
    row = result.summary()["drafts"]["3"]
    run = result.runs[1]
    assert row["break_even"] == pytest.approx(break_even(run.alpha, 3))
    assert row["predicted"] == pytest.approx(speedup(run.alpha, 3, result.cost_ratio))
    assert row["speedup"]["low"] <= row["speedup"]["value"] <= row["speedup"]["high"]
    assert math.isfinite(row["tokens_per_second"])
    again = draft_for(base, small, suite(tmp_path, draft=DRAFT), tmp_path / "cache", name="pruned")
    assert again == result


def test_a_draft_of_another_tokenizer_is_refused(base, tmp_path):
    other = tiny_checkpoint(tmp_path / "other")
    from tests.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["zebra"])
    tokenizer.save_pretrained(other.folder)
    with pytest.raises(InputError, match="another tokenizer"):
        draft_for(base, other, suite(tmp_path, draft=DRAFT))


def test_drafts_need_prompts():
    from regrow.evaluate.spec import EvaluateSpec

    with pytest.raises(ValidationError, match="draft: decodes the prompts of `answers`"):
        EvaluateSpec(draft={}, speed={})


@pytest.mark.real
@pytest.mark.evaluation
def test_a_real_pruned_model_drafts_for_its_parent(tmp_path):
    base = smollm2(tmp_path / "base", "float32")
    small = pruned(base, tmp_path / "small", "20:23")
    spec = suite(tmp_path, draft={"tokens": [2], "new_tokens": 16, "limit": 3, "rounds": 1})
    run = draft_for(base, small, spec).runs[0]
    assert run.differing == 0
    assert 0.1 < run.alpha < 1
