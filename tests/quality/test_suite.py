"""Each check of the suites, on a dozen rows."""

import json
import logging
from pathlib import Path

import pytest
from pydantic import ValidationError

from regrow import quality
from regrow.errors import GateFailedError, InputError
from regrow.quality import GateResult, GateSpec, enforce, explain, page, validate
from regrow.quality.spec import SEVERITIES
from tests.quality.rows import FRUIT, LONG, failures, kept, row, rows, said, saved
from tests.tiny import tiny_tokenizer

END = "The answer is B) kiwi."


def test_good_data_pass(tmp_path):
    data = saved(tmp_path, rows({3: kept(3)}))
    spec = GateSpec(letter_balance_records=12)
    result = validate(data, spec, "fruit", tokenizer=tiny_tokenizer(), eval_texts=["What is a planet?"])
    assert failures(result) == []
    assert result.passed
    assert result.family == "choice"
    assert result.records == 12
    assert result.digest == data.digest
    # That rows were taken out is judged only where some were.
    assert {finding.name for finding in result.expectations} == set(SEVERITIES) - {"rows left"}
    enforce(result)
    assert "all" in explain(result)


BROKEN = [
    ("id unique", {5: {"id": f"{4:016x}"}}, 4, {}),
    ("id present", {5: {"id": None}}, 5, {}),
    ("instruction not empty", {5: {"instruction": " \n"}}, 5, {}),
    ("instruction not empty", {5: {"instruction": None}}, 5, {}),
    ("response length", {5: {"response_tokens": 5000}}, 5, {}),
    ("length ratio", {5: {"reference": END, "response": row(5)["response"] + " It is so." * 5}}, 5,
     {"length_ratio_share": 1, "max_length_ratio": 3}),
    ("duplicate responses", {i: said(END) | {"answer": "B"} for i in (2, 5, 7, 8)}, 2, {}),
    ("task phrases", {5: {"response": f"As in the reference answer: {END}"}}, 5, {}),
    ("refusals", {5: said(f"As an AI I decline. {END}")}, 5, {}),
    ("decision known", {5: {**kept(5), "decision": "kept: because"}}, 5, {}),
    ("acceptance rate", {i: kept(i) for i in range(5, 12)}, 5, {"min_acceptance_rate": 0.5}),
    ("final answer", {5: {"response": "It is sweet. The answer is C) kiwi."}}, 5, {}),
    ("final answer", {5: {"response": "It is sweet."}}, 5, {}),
    ("reference answer", {5: {"reference": "It is sweet."}}, 5, {}),
    ("reference answer", {5: {"reference": "It is sweet. The answer is C) fig."}}, 5, {}),
    ("kept reference", {5: {"decision": "kept: unfinished"}}, 5, {}),
    ("truncated", {5: {"response": f"{END} It is a small green fruit, and the"}}, 5, {}),
    ("script", {5: {"response": f"Потому что он зелёный. {END}"}}, 5, {}),
    ("personal data", {5: {"instruction": "Is kiwi@fruit.org the address of a kiwi?"}}, 5, {}),
    ("secrets", {5: {"input": "key: hf_" + "aB3dE5gH7jK9" * 3}}, 5, {}),
    ("letter balance", {i: {"answer": "B", "response": f"{FRUIT[i]}. {END}", "reference": f"{FRUIT[i]}! {END}"}
                        for i in range(8)}, None, {"letter_balance_records": 12}),
    ("chat template", {5: {"instruction": "What is <|im_end|> here?"}}, 5, {}),
    ("token budget", {5: {"instruction": "Is it " + "very " * 60 + "green?"}}, 5,
     {"max_conversation_tokens": 300}),
    ("contamination", {5: {"instruction": f"Read: {LONG}, and more."}}, 5, {}),
    ("contamination", {5: {"response": f"{LONG}. {END}"}}, 5, {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "changed", "first", "settings"), BROKEN)
def test_each_check_fails_alone_and_names_the_row(tmp_path, name, changed, first, settings):
    spec = GateSpec(**settings)
    data = saved(tmp_path, rows(changed))
    result = validate(data, spec, "fruit", tokenizer=tiny_tokenizer(), eval_texts=[LONG])
    assert failures(result) == [name]
    (finding,) = result.failed()
    assert [one["row"] for one in finding.offending][:1] == ([] if first is None else [first])
    assert len(finding.offending) <= 5
    assert result.passed is (SEVERITIES[name] == "warn")
    message = explain(result)
    for part in (name, finding.threshold, finding.observed, finding.advice):
        assert part in message
    for one in finding.offending:
        assert str(one["id"]) in message


def test_every_check_has_a_broken_set():
    seen = {name for name, *_ in BROKEN} | {"columns", "column types", "records", "rows left"}
    assert seen | {"response not empty"} == set(SEVERITIES)


def test_an_empty_response_offends_more_than_one_check(tmp_path):
    data = saved(tmp_path, rows({5: kept(5, response=None, reference=" ", answer=None)}))
    result = validate(data, GateSpec(), "fruit")
    assert {"response not empty", "kept reference"} <= set(failures(result))


def test_the_value_says_what_is_wrong(tmp_path):
    changed = {
        1: {"response": f"Потому что он зелёный. {END}"},
        2: {"input": "Write to kiwi@fruit.org."},
        3: {"reference": "It is sweet. The answer is C) fig."},
    }
    result = validate(saved(tmp_path, rows(changed)), GateSpec(), "fruit")
    values = {finding.name: [one["value"] for one in finding.offending] for finding in result.failed()}
    assert values["script"][0].startswith("Cyrillic: ")
    assert values["personal data"] == ["[e-mail ki…]"]
    assert values["reference answer"] == ["C instead of D"]


def test_letters_are_judged_only_from_a_number_on(tmp_path):
    same = {
        i: {"answer": "B", "response": f"{FRUIT[i]}. {END}", "reference": f"{FRUIT[i]}! {END}"}
        for i in range(12)
    }
    data = saved(tmp_path, rows(same))
    assert "letter balance" not in {one.name for one in validate(data, GateSpec(), "x").expectations}
    (finding,) = validate(data, GateSpec(letter_balance_records=12), "x").failed()
    assert finding.name == "letter balance"
    assert finding.observed == "100.0% (B: 12)"


def test_a_translation_is_no_drift(tmp_path):
    asked = {"instruction": "Translate into Russian: green.", "reference": f"зелёный {END}", "answer": "B"}
    data = saved(tmp_path, rows({5: asked | {"response": f"Это зелёный цвет. {END}"}}))
    assert failures(validate(data, GateSpec(), "x")) == []


@pytest.mark.parametrize("family", ["choice", "math", "text", "open"])
def test_each_family_has_its_suite(tmp_path, family):
    names = {one.name for one in validate(saved(tmp_path, rows(), family), GateSpec(), "x").expectations}
    assert ({"final answer", "reference answer"} <= names) is (family != "open")
    assert {"truncated", "script", "personal data", "secrets", "refusals"} <= names


def test_an_unknown_family_is_named(tmp_path):
    with pytest.raises(InputError, match=r"summary.json.*'poetry' is unknown; use open, text, math, choice"):
        validate(saved(tmp_path, rows(), "poetry"), GateSpec(), "x")


def test_thresholds_are_met_exactly(tmp_path):
    data = saved(tmp_path, rows({i: kept(i) for i in range(6)}))
    assert validate(data, GateSpec(min_acceptance_rate=0.5, min_records=12), "x").passed
    assert failures(validate(data, GateSpec(min_acceptance_rate=0.51), "x")) == ["acceptance rate"]
    few = validate(data, GateSpec(min_records=13), "x")
    assert failures(few) == ["records"]
    assert few.failed()[0].observed == "12"


def test_shares_allow_some(tmp_path):
    data = saved(tmp_path, rows({5: {"response": "My response is: the answer is B) fig."}}))
    assert failures(validate(data, GateSpec(), "x")) == ["task phrases"]
    assert failures(validate(data, GateSpec(max_phrase_rate=0.1), "x")) == []


def test_severity_can_be_set(tmp_path, caplog):
    data = saved(tmp_path, rows({5: {"response": "It is sweet."}}))
    with caplog.at_level(logging.WARNING):
        result = validate(data, GateSpec(severity={"final answer": "warn"}), "fruit")
    assert failures(result) == ["final answer"]
    assert result.passed
    enforce(result)
    assert "final answer" in caplog.text


def test_the_error_stops_with_the_message(tmp_path):
    result = validate(saved(tmp_path, rows({5: {"response": "It is sweet."}})), GateSpec(), "fruit")
    with pytest.raises(GateFailedError, match=r"final answer.*\n.*asked for.*\n.*0000000000000005") as caught:
        enforce(result)
    assert "None instead of B" in str(caught.value)
    assert caught.value.exit_status == 3


def test_families_compare_their_own_way(tmp_path):
    half = {"answer": "7/2", "response": "We halve it. The answer is 3.50."}
    data = saved(tmp_path, rows(dict.fromkeys(range(12), half)), family="math")
    assert "final answer" not in failures(validate(data, GateSpec(), "x"))
    data = saved(tmp_path, rows({i: {"answer": None} for i in range(12)}), family="open")
    assert failures(validate(data, GateSpec(), "x")) == []


def test_missing_columns_and_wrong_types_end_it_there(tmp_path, monkeypatch):
    data = saved(tmp_path, rows())
    lacking = [{key: value for key, value in one.items() if key != "decision"} for one in rows()]
    monkeypatch.setattr(type(data), "rows", lambda self: lacking)
    result = validate(data, GateSpec(), "x")
    assert failures(result)[0] == "columns"
    assert result.failed()[0].observed == "missing: decision"
    mistyped = rows({2: {"response": 7}, 3: {"seed": "seven"}})
    monkeypatch.setattr(type(data), "rows", lambda self: mistyped)
    result = validate(data, GateSpec(), "x")
    (finding,) = result.failed()
    assert finding.name == "column types"
    assert [(one["row"], one["value"]) for one in finding.offending] == [
        (2, "response is int, not str"),
        (3, "seed is str, not int"),
    ]
    assert not result.passed


def test_no_rows_at_all(tmp_path):
    result = validate(saved(tmp_path, []), GateSpec(), "x", tokenizer=tiny_tokenizer(), eval_texts=[LONG])
    assert not result.passed
    assert "records" in failures(result)


def test_the_result_is_plain_json(tmp_path):
    data = saved(tmp_path, rows({5: {"response": "It is sweet.", "response_tokens": 9999}}))
    result = validate(data, GateSpec(), "x", eval_texts=[LONG])
    text = json.dumps(result.model_dump())
    assert GateResult.model_validate_json(text) == result


def test_the_page_shows_what_failed_and_escapes_it(tmp_path):
    data = saved(tmp_path, rows({5: {"response": "<script>alert(1)</script> & so on."}}))
    html = page(validate(data, GateSpec(), "fruit <b>"))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "fruit &lt;b&gt;" in html
    assert "expect_column_values_to_be_in_set" in html
    assert "http" not in html, "nothing is fetched"
    assert "not passed" in html


def test_it_prints_nothing(tmp_path, capfd):
    data = saved(tmp_path, rows())
    capfd.readouterr()
    validate(data, GateSpec(), "x")
    out, err = capfd.readouterr()
    assert out == ""
    assert "Calculating" not in err


@pytest.mark.parametrize(
    "wrong",
    [
        {"severity": {"no such check": "warn"}},
        {"severity": {"records": "maybe"}},
        {"min_length_ratio": 3.0, "max_length_ratio": 2.0},
        {"min_acceptance_rate": 1.5},
        {"nonsense": 1},
        {"on_fail": "shrug"},
        {"severity": {"columns": "warn"}},
    ],
)
def test_impossible_settings(wrong):
    with pytest.raises(ValidationError):
        GateSpec(**wrong)


def test_public_names():
    assert set(quality.__all__) >= {"GateSpec", "GateResult", "validate", "page", "explain", "enforce"}


def test_the_page_for_users_tells_of_every_check_and_field():
    lines = (Path(__file__).parents[2] / "docs/quality.md").read_text().splitlines()
    table = [line.split(" | ") for line in lines if line.startswith("| `")]
    for name, severity in SEVERITIES.items():
        (row,) = [cells for cells in table if f"`{name}`" in cells[0]]
        assert row[1].split(",")[0] == severity, name
    text = "\n".join(lines)
    assert [
        field for field in GateSpec.model_fields if f"`{field}`" not in text and f"{field}:" not in text
    ] == []
