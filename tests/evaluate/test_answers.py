import pytest
import torch

from regrow.errors import InputError
from regrow.evaluate import answers as module
from regrow.evaluate.answers import Answer, answers, read_questions
from regrow.evaluate.health import health, loops, repetition
from regrow.evaluate.spec import EvaluateSpec
from tests.evaluate.questions import lively, suite


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return lively(tmp_path_factory.mktemp("answers") / "m")


def test_answers_are_the_models_greedy_ones(model, tmp_path):
    """One at a time with transformers' own generate, for the batches are put together from several."""
    spec = suite(tmp_path)
    found = answers(model, spec)
    assert len(found.items) == len(found.prompts) == len(read_questions(spec)) == 6
    network = model.load(dtype="float32")
    for prompt, answer in zip(found.prompts, found.items, strict=True):
        ids = torch.tensor([prompt])
        wrote = network.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False
        )[0, len(prompt) :].tolist()
        assert list(answer.ids) == wrote
        assert answer.finished == (wrote[-1] == model.tokenizer().eos_token_id)
        assert answer.text == model.tokenizer().decode(wrote, skip_special_tokens=True)


def test_a_killed_run_goes_on_after_its_last_shard(model, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SHARD", 2)
    spec, cache = suite(tmp_path), tmp_path / "cache"
    whole = answers(model, spec)
    generate, calls = module._generate, []

    def killed(engine, questions, longest):
        calls.append(questions)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(engine, questions, longest)

    monkeypatch.setattr(module, "_generate", killed)
    with pytest.raises(KeyboardInterrupt):
        answers(model, spec, cache)
    done = sorted(cache.rglob("answers-*.json"))
    assert len(done) == 2
    assert answers(model, spec, cache) == whole
    assert len(calls) == 4  # the third again, and nothing else
    monkeypatch.setattr(module, "_engine", None)
    assert answers(model, spec, cache) == whole  # nothing is loaded now


def test_other_settings_are_other_answers_in_the_cache(model, tmp_path):
    cache = tmp_path / "cache"
    long = answers(model, suite(tmp_path), cache)
    short = answers(model, suite(tmp_path, answers={"max_new_tokens": 5}), cache)
    assert [one.ids[:5] for one in long.items] == [one.ids for one in short.items]
    assert len(list(cache.rglob("answers-*.json"))) == 2


def test_a_question_that_does_not_fit_has_no_answer(model, tmp_path):
    found = answers(model, suite(tmp_path, answers={"max_new_tokens": 950}))
    kinds = {one.overlong for one in found.items}
    assert kinds == {True, False}
    assert all(one.ids == () for one in found.items if one.overlong)
    assert health(found.items).answers == sum(not one.overlong for one in found.items)


def test_questions_must_be_named():
    with pytest.raises(InputError, match=r"evaluation\.answers: is not given"):
        read_questions(EvaluateSpec(speed={}))


def test_repetition_is_the_share_of_runs_that_came_before():
    assert repetition([1, 2, 3]) == 0.0
    assert repetition(range(50)) == 0.0
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repetition([7] * 10) == pytest.approx(6 / 7)


def test_a_loop_is_the_same_at_the_end_three_times():
    assert loops([5, *[9] * 24])
    assert not loops([5, *[9] * 23])
    phrase = list(range(20))
    assert loops([*range(100, 130), *phrase * 3])
    assert not loops([*range(100, 130), *phrase * 2, *phrase[1:]])
    assert loops([*range(100, 130), *phrase * 3, *phrase[:7]])
    assert not loops([*phrase * 5, 99])
    assert not loops(range(300))
    assert not loops([])


def test_health_counts_answers():
    def answer(text="word", ids=(1, 2), finished=True, overlong=False):
        return Answer(text=text, ids=tuple(ids), finished=finished, overlong=overlong)

    found = health(
        [
            answer(),
            answer(text=" \n", ids=(3,)),
            answer(ids=[4] * 30, finished=False),
            answer(ids=[4] * 30),  # ended by itself: no loop
            answer(ids=range(40), finished=False),
            answer(ids=(), overlong=True),
        ]
    )
    assert found.answers == 5
    assert found.empty == pytest.approx(1 / 5)
    assert found.unfinished == pytest.approx(2 / 5)
    assert found.looping == pytest.approx(1 / 5)
    assert found.repetition == pytest.approx(2 * (26 / 27) / 5)
    assert found.length == pytest.approx((2 + 1 + 30 + 30 + 40) / 5)
