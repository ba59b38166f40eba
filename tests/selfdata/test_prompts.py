from types import SimpleNamespace

import pytest

from regrow.errors import InputError
from regrow.selfdata.prompts import (
    FAMILIES,
    fold_system,
    load_template,
    parse_template,
    render,
    student_messages,
)
from tests.tiny import tiny_tokenizer

RECORD = SimpleNamespace(instruction="Add 2 and 3.", input="", reference="It is 5.", response="Five.")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("use_reference", [True, False])
def test_packaged_templates(family, use_reference):
    template = load_template("auto", family, use_reference=use_reference)
    text = render(tiny_tokenizer(), template.messages(RECORD), template.assistant)
    assert "Add 2 and 3." in text
    assert ("It is 5." in text) is use_reference
    assert "{{" not in text
    assert text.endswith("<|im_start|>assistant\n" + template.assistant)


def test_input_stands_below_the_instruction():
    record = {"instruction": "Translate.", "input": "Guten Tag", "response": "Good day"}
    assert student_messages(record) == [
        {"role": "user", "content": "Translate.\n\nGuten Tag"},
        {"role": "assistant", "content": "Good day"},
    ]


def test_the_student_never_sees_the_reference():
    row = {"instruction": "i", "input": "", "reference": "SECRET", "response": "r"}
    assert "SECRET" not in str(student_messages(row))


def test_braces_in_a_record_stay():
    template = parse_template("t", "[user]\n{{instruction}} / {{reference}}")
    record = {"instruction": "What is {{reference}}?", "reference": r"\g<0> {{instruction}}"}
    assert template.messages(record)[0]["content"] == r"What is {{reference}}? / \g<0> {{instruction}}"


def test_template_from_a_file(tmp_path):
    (tmp_path / "mine.txt").write_text(
        "[user]\nQ: {{ instruction }}\nA: {{reference}}\n\n[assistant]\nWell,\n"
    )
    template = load_template(str(tmp_path / "mine.txt"), "open")
    assert template.messages(RECORD) == [{"role": "user", "content": "Q: Add 2 and 3.\nA: It is 5."}]
    assert template.assistant == "Well,"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{{instruction}}", "needs a \\[user\\]"),
        ("[system]\nx", "needs a \\[user\\]"),
        ("[user]\n{{instruction}}\n[user]\n{{instruction}}", "at most once"),
        ("hello\n[user]\n{{instruction}}", "needs a \\[user\\]"),
        ("[user]\n{{reference}}", "no {{instruction}}"),
        ("[user]\n{{instruction}} {{answer}}", "unknown field {{answer}}"),
        ("[user]\n{{instruction}}\n[assistant]\n{{reference}}", "fixed text"),
    ],
)
def test_malformed_templates(text, what):
    with pytest.raises(InputError, match=what):
        parse_template("t", text)


def test_template_and_use_reference_must_agree(tmp_path):
    with pytest.raises(InputError, match=r"has no \{\{reference"):
        load_template("choice-fresh", "choice")
    with pytest.raises(InputError, match="use_reference: true"):
        load_template("choice", "choice", use_reference=False)
    with pytest.raises(InputError, match="neither a file nor one of auto, choice"):
        load_template("nothing", "choice")
    with pytest.raises(InputError, match="family: 'poem'"):
        load_template("auto", "poem")


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
PLAIN = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<a>"
DROPS = PLAIN.replace("in messages", "in messages if m['role'] != 'system'")


@pytest.mark.parametrize("template", [REFUSES + PLAIN, DROPS])
def test_templates_without_a_system_role(template):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    assert render(tokenizer, MESSAGES, "So") == "<user>Be brief.\n\nHello<a>So"


def test_templates_with_a_system_role():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = PLAIN
    assert render(tokenizer, MESSAGES) == "<system>Be brief.<user>Hello<a>"


def test_a_template_that_refuses_everything_is_an_input_error():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('only tools') }}"
    with pytest.raises(InputError, match="only tools"):
        render(tokenizer, MESSAGES)


def test_folding_leaves_its_input_alone():
    fold_system(MESSAGES)
    assert MESSAGES[1]["content"] == "Hello"
