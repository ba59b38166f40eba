"""Which texts break off. What real references do is in test_public_sets."""

# ruff: noqa: RUF001 - letters of other scripts are the matter here

import pytest

from regrow.quality.truncation import breaks_off

SENTENCE = "The kiwi is a small green fruit with brown skin that grows on a vine."


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("Here is the code:\n```python\nprint(1)\n", "code fence"),
        ("So we get \\boxed{12", "\\boxed{"),
        ("We write \\[ x^2 + 1", "formula"),
        ("\\begin{pmatrix} 1 & 2", "formula"),
        ("The area is $\\frac{1}{2", "formula ($)"),
        ("We need apples, pears,", "comma"),
        ("我们需要苹果，", "comma"),
        ("It is called (", "opening bracket"),
        ("It grows on vines (as grapes", "bracket is left open"),
        ("The plant is self-", "hyphen"),
        ("It is green -", "hyphen"),
        ("1. Peel it.\n2. Cut it.\n3.", "empty list item"),
        ("- peel\n- cut\n-", "empty list item"),
        (f"{SENTENCE} We eat it with a spoon and the", "'the'"),
        (f"{SENTENCE} People like to eat", "last sentence"),
    ],
)
def test_signs_of_a_broken_text(text, sign):
    assert sign in breaks_off(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "B",
        "The answer is A",
        "42",
        "$5",
        "It costs $5 and the other $7, so $12.",
        SENTENCE,
        f'{SENTENCE} It is known as yang tao ("sun peach").',
        "- apples\n- pears and plums\n- figs",
        "1. Turn it on\n2. Log in",
        "Apples, pears and figs",
        "https://example.org/search?q=a-",
        "Write to kiwi@fruit-",
        "Dear all,\n\nthe kiwis are ripe.\n\nBest regards,",
        "```python\ndef f(x):\n    return (x,\n            1)\n```",
        "for i in range(3):\n    print(i)",
        "SELECT a, b FROM t;",
        "See you soon :(",
        "a) first b) second",
        "The interval is (0, 1]",
        "x \\in (0, 1)",
        "\\[ \\begin{aligned} x &= 1 \\\\[2pt] y &= 2 \\end{aligned} \\]",
        "The result is $\\frac{1}{2}$.",
        f"{SENTENCE} What a fruit! #kiwi #green",
        f'"{SENTENCE} Eat it." - A farmer of Te Puke',
        f"{SENTENCE} Read more at https://fruit.org/kiwi",
        f"{SENTENCE} He asked Mr. Brown and Dr. Green of the institute.",
        "これは緑色の果物です。",
        "¿Es verde?",
        "यह एक हरा फल है।",
        "Roses are red,\nviolets are blue,\nkiwis are green\nand so are you",
    ],
)
def test_finished_texts(text):
    assert breaks_off(text) is None
