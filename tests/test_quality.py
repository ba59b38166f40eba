import json
import logging

import pytest
from pydantic import ValidationError

from regrow import quality
from regrow.errors import GateFailedError
from regrow.quality import GateResult, GateSpec, enforce, explain, page, validate, without_contamination
from regrow.quality.spec import SEVERITIES
from regrow.selfdata import REWRITTEN, store
from tests.tiny import tiny_tokenizer

FRUIT = ["apple", "pear", "plum", "fig", "lime", "kiwi", "peach", "grape", "melon", "date", "lemon", "mango"]


def row(i, **changes):
    letter = "ABCD"[i % 4]
    reference = f"The {FRUIT[i]} is grown for its fruit. The answer is {letter}) {FRUIT[i]}."
    return {
        "id": f"{i:016x}",
        "instruction": f"Which of these is called {FRUIT[i]}?",
        "input": "",
        "reference": reference,
        "answer": letter,
        "source": "fruit",
        "response": f"People like to eat the {FRUIT[i]}. The answer is {letter}) {FRUIT[i]}.",
        "engine": "transformers",
        "decision": REWRITTEN,
        "attempts": 1,
        "prompt_tokens": 40,
        "response_tokens": 15,
        "seed": -1,
    } | changes


def rows(changed=()):
    """Twelve good rows, with the changes of `changed` by number."""
    return [row(i, **dict(changed).get(i, {})) for i in range(12)]


def kept(i, **changes):
    return {"response": row(i)["reference"], "decision": "kept: answer differs"} | changes


def saved(tmp_path, content, family="choice"):
    return store.save(content, {"family": family}, tmp_path / "data")


def failures(result):
    return [finding.name for finding in result.failed()]


def test_good_data_pass(tmp_path):
    data = saved(tmp_path, rows({3: kept(3)}))
    result = validate(data, GateSpec(), "fruit", tokenizer=tiny_tokenizer(), eval_texts=["What is a planet?"])
    assert failures(result) == []
    assert result.passed
    assert result.records == 12
    assert result.digest == data.digest
    assert {finding.name for finding in result.expectations} == set(SEVERITIES)
    enforce(result)
    assert "all" in explain(result)


LONG = "An evaluation item that nobody should have trained on because it is used to measure the model"

BROKEN = [
    ("id unique", {5: {"id": f"{4:016x}"}}, 4, {}),
    ("instruction not empty", {5: {"instruction": " \n"}}, 5, {}),
    ("response length", {5: {"response_tokens": 5000}}, 5, {}),
    ("response not empty", {5: kept(5, response=" ", reference=" ")}, 5, {}),
    ("length ratio", {5: {"reference": "B", "response": row(5)["response"] + " It is so." * 5}}, 5, {}),
    ("duplicate responses", {i: kept(i, response="Same.", reference="Same.") for i in (2, 5, 7, 8)}, 2, {}),
    ("task phrases", {5: {"response": "As in the reference answer: the answer is B) fig."}}, 5, {}),
    ("refusals", {5: kept(5, response="As an AI I decline.", reference="As an AI I decline.")}, 5, {}),
    ("decision known", {5: {**kept(5), "decision": "kept: because"}}, 5, {}),
    ("acceptance rate", {i: kept(i) for i in range(5, 12)}, 5, {"min_acceptance_rate": 0.5}),
    ("final answer", {5: {"response": "It is sweet. The answer is C) fig."}}, 5, {}),
    ("final answer", {5: {"response": "It is sweet."}}, 5, {}),
    ("kept reference", {5: {"decision": "kept: unfinished"}}, 5, {}),
    ("chat template", {5: {"instruction": "What is <|im_end|> here?"}}, 5, {}),
    ("contamination", {5: {"instruction": f"Read: {LONG}, and more."}}, 5, {}),
    ("contamination", {5: {"response": f"{LONG}. The answer is B) fig."}}, 5, {}),
]


@pytest.mark.parametrize(("name", "changed", "first", "settings"), BROKEN)
def test_each_check_fails_alone_and_names_the_row(tmp_path, name, changed, first, settings):
    spec = GateSpec(length_ratio_share=1.0, **settings)
    data = saved(tmp_path, rows(changed))
    result = validate(data, spec, "fruit", tokenizer=tiny_tokenizer(), eval_texts=[LONG])
    assert failures(result) == [name]
    (finding,) = result.failed()
    assert finding.offending[0]["row"] == first
    assert len(finding.offending) <= 5
    assert result.passed is (SEVERITIES[name] == "warn")
    message = explain(result)
    for part in (name, finding.threshold, finding.observed, finding.offending[0]["id"], finding.advice):
        assert part in message


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


def test_contaminated_rows_are_taken_out(tmp_path):
    data = saved(tmp_path, rows({5: {"instruction": LONG}, 7: kept(7)}))
    clean = without_contamination(data, [LONG], tmp_path / "clean")
    assert [one["id"] for one in clean.rows()] == [one["id"] for i, one in enumerate(data.rows()) if i != 5]
    assert clean.summary["records"] == 11
    assert clean.summary["contaminated"] == 1
    assert clean.summary["before"] == data.digest
    assert clean.summary["family"] == "choice"
    assert clean.summary["decisions"] == {"kept: answer differs": 1, REWRITTEN: 10}
    assert validate(clean, GateSpec(), "x", eval_texts=[LONG]).passed
    same = without_contamination(data, ["Nothing shared at all here"], tmp_path / "same")
    assert same.digest == data.digest


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
    ],
)
def test_impossible_settings(wrong):
    with pytest.raises(ValidationError):
        GateSpec(**wrong)


def test_public_names():
    assert set(quality.__all__) >= {"GateSpec", "GateResult", "validate", "page", "explain", "enforce"}
