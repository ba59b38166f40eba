import pytest

from regrow.selfdata import rule
from regrow.selfdata.engines import Generation


def generation(text, *, finished=True, overlong=False):
    return Generation(text, len(text), finished, 10, overlong=overlong)


@pytest.mark.parametrize(
    ("written", "answer", "family", "decision"),
    [
        (generation(" It is hot. The answer is B) fire."), "B", "choice", rule.REWRITTEN),
        (generation(" The answer is B) fire."), "C", "choice", rule.DIFFERS),
        (generation(" It is hot."), "B", "choice", rule.DIFFERS),
        (generation(" The answer is B) fire.", finished=False), "B", "choice", rule.UNFINISHED),
        (generation("  \n"), "B", "choice", rule.EMPTY),
        (generation("", overlong=True, finished=False), "B", "choice", rule.OVERLONG),
        (generation(" As an AI, I say: the answer is B) fire."), "B", "choice", rule.BANNED),
        (generation(" The answer is 4."), None, "math", rule.NO_ANSWER),
        (generation(" A poem."), None, "open", rule.REWRITTEN),
        (generation(" A poem as in the Reference  answer."), None, "open", rule.BANNED),
    ],
)
def test_decisions(written, answer, family, decision):
    assert rule.judge(written, "Well:", answer, family, rule.BANNED_PHRASES) == decision
    assert decision in rule.DECISIONS


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("As an AI I cannot", "as an ai"),
        ("Use it as an aid.", None),
        ("I\u2019m sorry, but no.", "i'm sorry, but"),
        ("This is your\nresponse", "your response"),
        ("Check your responses", None),
    ],
)
def test_banned_phrases_are_whole_words(text, phrase):
    assert rule.banned_phrase(text, rule.BANNED_PHRASES) == phrase


def test_join():
    assert rule.join("", " Hello ") == "Hello"
    assert rule.join("So:", "yes") == "So: yes"
    assert rule.join("So:", "\nyes") == "So:\nyes"


def test_acceptance_rate():
    assert rule.acceptance_rate([]) == 0.0
    assert rule.acceptance_rate([{"decision": rule.REWRITTEN}, {"decision": rule.DIFFERS}]) == 0.5
