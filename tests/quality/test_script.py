# ruff: noqa: RUF001 - letters of other scripts are the matter here

import pytest

from regrow.quality.script import foreign

QUESTION = "Which fruit is green inside and brown outside?"


@pytest.mark.parametrize(
    ("response", "script"),
    [
        ("猕猴桃是绿色的水果。", "Chinese or Japanese"),
        ("これはキウイです。", "Chinese or Japanese"),
        ("키위는 초록색 과일입니다.", "Hangul"),
        ("Это киви.", "Cyrillic"),
        ("هذه فاكهة الكيوي.", "Arabic"),
        ("यह कीवी है।", "Devanagari"),
        ("Είναι το ακτινίδιο.", "Greek"),
    ],
)
def test_another_script_is_drift(response, script):
    found, share = foreign(response, QUESTION)
    assert found == script
    assert share == 1


@pytest.mark.parametrize(
    ("response", "context"),
    [
        ("The kiwi is.", QUESTION),
        ("Être ou ne pas être, ça c'est une kiwi: naïve, Ærø, Łódź.", QUESTION),
        ("The angle is α + β = π, and Δx → 0, so ∑ ℝ ∈ 𝑥𝑦𝑧𝒂𝐛𝟙.", QUESTION),
        ("Это киви.", "Ответь по-русски: какой фрукт зелёный?"),
        ("猕猴桃", "Translate into Chinese: kiwi\n猕猴桃"),
        ("これはキウイです。", "什么水果是绿色的？"),
        ("12 + 30 = 42", QUESTION),
        ("", QUESTION),
        ("Это", ""),
        ("The word is от.", QUESTION),  # two letters are a quotation
    ],
)
def test_no_drift(response, context):
    assert foreign(response, context) is None


def test_the_share_is_that_of_the_letters():
    found, share = foreign("kiwi kiwi киви", "kiwi")
    assert (found, share) == ("Cyrillic", pytest.approx(4 / 12))


def test_a_script_that_only_occurs_in_the_question_is_not_its_own():
    question = "请详细解释一下计算机里面的中央处理器到底是做什么用的呢" * 3 + " CPU"
    assert foreign("The central processing unit computes.", question) == ("Latin", 1)
    assert foreign("CPU 负责执行程序的指令。", question) is None, "three letters, as in the question"
