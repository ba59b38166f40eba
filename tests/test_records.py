import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from regrow.adapters import ADAPTERS, CHOICE_REQUEST
from regrow.errors import InputError
from regrow.records import Record, decontaminate, read_records
from regrow.selfdata.answers import matches
from regrow.source import FAMILIES, DatasetSpec

SCIQ = {
    "question": "What gas do plants take in?",
    "correct_answer": "carbon dioxide",
    "distractor1": "oxygen",
    "distractor2": "helium",
    "distractor3": "neon",
    "support": "Photosynthesis uses carbon dioxide and water.",
}
ARC = {
    "question": "Which is a mammal?",
    "choices": {"text": ["trout", "otter", "crow"], "label": ["1", "2", "3"]},
    "answerKey": "2",
}


def write(folder: Path, rows: list[dict]) -> str:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def records(folder: Path, adapter: str, rows: list[dict], **spec) -> list[Record]:
    return read_records(DatasetSpec(name="set", source=write(folder, rows), adapter=adapter, **spec))


def only(folder: Path, adapter: str, row: dict, **spec) -> Record:
    (record,) = records(folder, adapter, [row], **spec)
    return record


def make(instruction: str, reference: str = "yes", **rest) -> Record:
    return Record(instruction=instruction, reference=reference, source="set", **rest)


def test_every_adapter_has_a_family():
    assert set(ADAPTERS) == set(FAMILIES)


def test_record_is_named_by_its_content():
    record = make("Add 2 and 3.", "5", answer="")
    assert record.answer is None
    assert re.fullmatch(r"[0-9a-f]{16}", record.id)
    assert make("Add 2 and 3.", "5", answer="5").id == record.id
    assert Record(**record.model_dump()) == record
    assert len({record.id, make("Add 2 and 3.", "6").id, make("Add 2 and 3.", "5", input="x").id}) == 3
    with pytest.raises(ValidationError, match="does not belong"):
        make("Add 2 and 4.", "5", id=record.id)


@given(st.text(min_size=1), st.text(), st.text(min_size=1))
def test_record_survives_json(instruction, given_input, reference):
    record = make(instruction, reference, input=given_input)
    assert Record.model_validate_json(record.model_dump_json()) == record


def test_gsm8k(tmp_path):
    solution = "He has 600 * 2 = <<600*2=1200>>1200 coins.\n#### 1,200"
    record = only(tmp_path, "gsm8k", {"question": "How many?", "answer": solution})
    assert record.answer == "1200"
    assert record.reference == "He has 600 * 2 = 1200 coins.\nThe answer is 1200."


def test_gsm8k_without_final_answer_names_the_row(tmp_path):
    rows = [{"question": "a", "answer": "#### 1"}, {"question": "b", "answer": "two"}]
    with pytest.raises(
        InputError, match=r"data\.jsonl: row 2: field 'answer' has no final answer after ####"
    ):
        records(tmp_path, "gsm8k", rows)


def test_openmathinstruct_both_versions(tmp_path):
    first = {"question": "1+1?", "generated_solution": "It is 2.", "expected_answer": "2", "is_correct": True}
    second = {"problem": "1+2?", "generated_solution": "Sum.\n\nThe answer is 3.", "expected_answer": "3"}
    wrong = {
        "question": "1+3?",
        "generated_solution": "It is 5.",
        "expected_answer": "4",
        "is_correct": False,
    }
    found = {
        record.instruction: record for record in records(tmp_path, "openmathinstruct", [first, second, wrong])
    }
    assert set(found) == {"1+1?", "1+2?"}
    assert found["1+1?"].reference == "It is 2.\n\nThe answer is 2."
    assert found["1+2?"].reference == "Sum.\n\nThe answer is 3."


def test_alpaca_and_dolly(tmp_path):
    record = only(tmp_path, "alpaca", {"instruction": "Sort.", "input": "<noinput>", "output": "Done."})
    assert (record.instruction, record.input, record.reference, record.answer) == ("Sort.", "", "Done.", None)
    record = only(tmp_path, "dolly", {"instruction": "Who?", "context": "Ann came.", "response": "Ann"})
    assert (record.input, record.reference) == ("Ann came.", "Ann")
    template = "Below is an instruction.\n\n### Instruction:\nwhat is tea?\n\n### Response:\n"
    record = only(tmp_path, "dolly", {"prompt": template, "response": "A drink."})
    assert record.instruction == "what is tea?"


def test_sciq_letters_the_right_choice(tmp_path):
    record = only(tmp_path, "sciq", SCIQ)
    question, options, request = record.instruction.split("\n\n")
    assert (question, request) == (SCIQ["question"], CHOICE_REQUEST)
    lettered = dict(line.split(") ") for line in options.splitlines())
    assert sorted(lettered) == ["A", "B", "C", "D"]
    assert sorted(lettered.values()) == ["carbon dioxide", "helium", "neon", "oxygen"]
    assert lettered[record.answer] == "carbon dioxide"
    assert record.reference == f"{SCIQ['support']}\n\nThe answer is {record.answer}) carbon dioxide."
    assert only(tmp_path, "sciq", SCIQ) == record


def test_sciq_spreads_the_answer_over_the_letters(tmp_path):
    rows = [SCIQ | {"question": f"Question {i}?"} for i in range(200)]
    letters = [record.answer for record in records(tmp_path, "sciq", rows)]
    assert all(25 <= letters.count(letter) <= 75 for letter in "ABCD")


def test_choice_normalises_labels(tmp_path):
    record = only(tmp_path, "choice", ARC)
    assert record.answer == "B"
    assert "A) trout\nB) otter\nC) crow" in record.instruction
    assert record.reference == "The answer is B) otter."


def test_choice_takes_stems_lists_and_full_stops(tmp_path):
    row = {
        "question_stem": "It rains, so",
        "choices": ["Stay dry.", "Go out."],
        "answer": 1,
        "fact1": "Rain is wet",
    }
    record = only(tmp_path, "choice", row)
    assert (record.answer, record.reference) == ("B", "Rain is wet\n\nThe answer is B) Go out.")


def test_choice_with_foreign_answer(tmp_path):
    with pytest.raises(InputError, match="'9' is none of the choices 1, 2, 3"):
        records(tmp_path, "choice", [ARC | {"answerKey": "9"}])


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)
        .map(str.strip)
        .filter(bool),
        min_size=2,
        max_size=8,
        unique=True,
    ),
    st.data(),
)
def test_choice_keeps_answer_and_text_together(texts, data):
    from regrow.adapters import Fields, choice

    correct = data.draw(st.integers(0, len(texts) - 1))
    draft = choice(Fields({"question": "Q?", "choices": texts, "answer": correct}, None))
    assert draft.answer == "ABCDEFGH"[correct]
    assert f"The answer is {draft.answer}) {texts[correct]}" in draft.reference
    assert f"{draft.answer}) {texts[correct]}" in draft.instruction


def test_social_i_qa(tmp_path):
    row = {"context": "Ann fell.", "question": "Then?", "answerA": "cry", "answerB": "fly", "answerC": "buy"}
    record = only(tmp_path, "social_i_qa", row | {"label": "1"})
    assert record.instruction.startswith("Ann fell. Then?\n\nA) cry")
    assert record.reference == "The answer is A) cry."


def test_columns_reach_into_rows(tmp_path):
    row = {"doc": {"q": "Why?", "a": ["because", "so"]}, "short": 7}
    mapping = {"instruction": "doc.q", "reference": "doc.a.1", "answer": "short"}
    record = only(tmp_path, "columns", row, columns=mapping, family="text")
    assert (record.instruction, record.reference, record.answer) == ("Why?", "so", "7")


def test_columns_rename_for_other_adapters(tmp_path):
    row = {"doc": {"question": "1+1?"}, "answer": "2\n#### 2"}
    assert only(tmp_path, "gsm8k", row, columns={"question": "doc.question"}).answer == "2"


def test_missing_field_names_source_row_and_field(tmp_path):
    with pytest.raises(InputError, match=r"data\.jsonl: row 1: no field 'output'; it has instruction"):
        records(tmp_path, "alpaca", [{"instruction": "x"}])


def test_empty_rows_are_left_out_and_nothing_left_is_an_error(tmp_path):
    rows = [{"instruction": "a", "output": " "}, {"instruction": "b", "output": "c"}]
    assert [record.instruction for record in records(tmp_path, "alpaca", rows)] == ["b"]
    with pytest.raises(InputError, match="no usable record"):
        records(tmp_path, "alpaca", rows[:1])


def test_doubles_are_left_out(tmp_path):
    rows = [
        {"instruction": "Say hello", "output": "hello"},
        {"instruction": "say  HELLO", "output": "hi"},
        {"instruction": "Say hello", "input": "in French", "output": "bonjour"},
        {"instruction": "What is 3+4?", "output": "7"},
        {"instruction": "What is 3*4?", "output": "12"},
    ]
    assert len(records(tmp_path, "alpaca", rows)) == 4


def test_a_smaller_limit_is_a_prefix(tmp_path):
    rows = [{"instruction": f"Task {i}", "output": str(i)} for i in range(50)]
    everything = records(tmp_path, "alpaca", rows, seed=3)
    assert records(tmp_path, "alpaca", rows, seed=3, limit=7) == everything[:7]
    assert records(tmp_path, "alpaca", rows, seed=4) != everything
    assert len(everything) == 50


@pytest.mark.parametrize(
    ("text", "removed"),
    [
        ("one two three four five six seven eight nine ten eleven twelve thirteen fourteen", True),
        ("ONE, two; three four five six seven eight nine ten eleven twelve thirteen!", True),
        ("one two three four five six seven eight nine ten eleven twelve changed", False),
        ("two three four five six seven", True),  # short: the whole of it
        ("Question: two three four five six seven\nAnswer:", True),
        ("two three four five six changed", False),
        ("seven eight", False),  # very short: only as a whole field
        ("blue whale", True),
        ("", False),
    ],
)
def test_decontaminate(text, removed):
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    record = make(f"Read: {words}.", "Blue whale!")
    assert decontaminate([record], [text]) == (([], [record]) if removed else ([record], []))


def test_decontaminate_ignores_our_own_request():
    one, other = (
        make(f"Is {animal} a fish?\n\nA) yes\nB) no\n\n{CHOICE_REQUEST}") for animal in ("trout", "otter")
    )
    assert decontaminate([one, other], [one.instruction]) == ([other], [one])


@given(st.integers(13, 40), st.integers(0, 30), st.randoms(use_true_random=False))
def test_decontaminate_finds_any_overlap_of_thirteen(length, before, shuffler):
    shared = [f"word{i}" for i in range(length)]
    noise = [f"noise{shuffler.randrange(10**6)}" for _ in range(before)]
    record = make(" ".join([*noise, *shared, *noise]))
    clean = make(" ".join([*noise, "x", *shared[:12], "x"]))
    kept, removed = decontaminate([record, clean], [" ".join(["start", *shared, "end"])])
    assert (kept, removed) == ([clean], [record])


def test_decontaminate_refuses_tiny_n():
    with pytest.raises(ValueError, match="by chance"):
        decontaminate([], [], n=2)


def test_columns_without_a_mapping_are_the_fields(tmp_path):
    row = {"instruction": "1+1?", "input": "", "reference": "The answer is 2.", "answer": "2", "other": None}
    record = only(tmp_path, "columns", row, family="math")
    assert (record.instruction, record.reference, record.answer) == ("1+1?", "The answer is 2.", "2")
    with pytest.raises(ValidationError, match="columns: reference missing"):
        only(tmp_path, "columns", row, columns={"instruction": "instruction"})


@pytest.mark.parametrize("wrong", [False, "False", "false", 0])
def test_openmathinstruct_1_leaves_out_what_is_marked_wrong(tmp_path, wrong):
    right = {
        "question": "Ann has 3 bags of 4 nuts. How many nuts?",
        "expected_answer": "12",
        "generated_solution": "She has 3 * 4 = 12 nuts.\nThus \\\\boxed{12}.",
        "is_correct": True,
        "predicted_answer": "12",
        "error_message": "<not_executed>",
        "generation_type": "without_reference_solution",
        "dataset": "gsm8k",
    }
    other = right | {"question": "And 5 bags?", "is_correct": wrong}
    (record,) = records(tmp_path, "openmathinstruct", [right, other])
    assert record.instruction == right["question"]
    assert record.reference.endswith("\n\nThe answer is 12.")
    assert matches(record.reference, record.answer, "math")


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        # MMLU: a list and the index.
        ({"question": "2+2?", "subject": "arithmetic", "choices": ["3", "4", "5", "6"], "answer": 1}, "B"),
        # CommonsenseQA: texts and letters.
        (
            {
                "question": "Where is milk kept cold?",
                "question_concept": "milk",
                "choices": {"label": ["A", "B", "C"], "text": ["oven", "fridge", "shelf"]},
                "answerKey": "B",
            },
            "B",
        ),
        # OpenBookQA: the stem and a fact.
        (
            {
                "question_stem": "Ice is",
                "choices": {"label": ["A", "B"], "text": ["hot", "frozen water"]},
                "answerKey": "B",
                "fact1": "water freezes",
            },
            "B",
        ),
        (
            {
                "question": "Q?",
                "choices": [{"text": "x", "label": "1"}, {"text": "y", "label": "2"}],
                "answer": "2",
            },
            "B",
        ),
    ],
    ids=["mmlu", "commonsense_qa", "openbookqa", "list of pairs"],
)
def test_choice_sets_end_in_their_letter(tmp_path, row, answer):
    record = only(tmp_path, "choice", row)
    assert record.answer == answer
    assert matches(record.reference, record.answer, "choice")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ("a, b", "neither a list nor"),
        ({"text": ["a", "b"], "label": ["A"]}, "has 2 texts, and labels that do not fit"),
        (
            [{"text": ["x"], "label": "A"}, {"text": "y", "label": "B"}],
            "field 'choices' is not text but list",
        ),
    ],
)
def test_unfit_choices_are_named(tmp_path, choices, message):
    with pytest.raises(InputError, match=rf"data\.jsonl: row 1: .*{message}"):
        only(tmp_path, "choice", {"question": "Q?", "choices": choices, "answer": 0})
