"""The whole gate: what goes on, what goes into quarantine, what is written."""

import json
import logging

import pytest

from regrow.errors import GateFailedError
from regrow.quality import GateResult, GateSpec, explain, pass_gate, validate
from regrow.selfdata import REWRITTEN, SelfData
from tests.quality.rows import LONG, failures, kept, row, rows, said, saved
from tests.tiny import tiny_tokenizer

KEY = "hf_" + "aB3dE5gH7jK9" * 3


def quarantined(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def ids(data):
    return [one["id"] for one in data.rows()]


def test_contaminated_rows_are_taken_out(tmp_path):
    data = saved(tmp_path, rows({5: {"instruction": LONG}, 7: kept(7)}))
    clean = pass_gate(data, GateSpec(), "x", tmp_path / "clean", eval_texts=[LONG]).accepted_or_stop()
    assert [one["id"] for one in clean.rows()] == [one["id"] for i, one in enumerate(data.rows()) if i != 5]
    assert clean.summary["records"] == 11
    assert clean.summary["contaminated"] == 1
    assert clean.summary["before"] == data.digest
    assert clean.summary["family"] == "choice"
    assert clean.summary["decisions"] == {"kept: answer differs": 1, REWRITTEN: 10}
    assert validate(clean, GateSpec(), "x", eval_texts=[LONG]).passed
    other = ["Nothing shared at all here"]
    same = pass_gate(data, GateSpec(), "x", tmp_path / "same", eval_texts=other).accepted_or_stop()
    assert same.digest == data.digest


def test_a_good_set_passes_whole(tmp_path):
    data = saved(tmp_path, rows({3: kept(3)}))
    passage = pass_gate(
        data, GateSpec(), "fruit", tmp_path / "out", tokenizer=tiny_tokenizer(), eval_texts=[LONG]
    )
    assert passage.accepted_or_stop().digest == passage.result.digest == data.digest
    assert SelfData.open(tmp_path / "out").rows() == data.rows()
    assert passage.accepted.summary["before"] == data.digest
    assert passage.accepted.summary["contaminated"] == 0
    assert passage.result.removed == 0
    names = {
        "records.parquet",
        "summary.json",
        "gate.json",
        "gate.html",
        "data_docs.html",
        "quarantine.jsonl",
        "provenance",
    }
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    assert (tmp_path / "out/quarantine.jsonl").read_text() == ""
    assert GateResult.model_validate_json((tmp_path / "out/gate.json").read_text()).passed


def test_stop_keeps_nothing_and_names_every_row(tmp_path):
    bad = {i: {"response": "It is sweet."} for i in range(1, 12)}
    data = saved(tmp_path, rows(bad))
    passage = pass_gate(data, GateSpec(), "fruit", tmp_path / "out")
    assert passage.accepted is None
    with pytest.raises(GateFailedError, match=r"quarantine\.jsonl(.|\n)*final answer"):
        passage.accepted_or_stop()
    assert not (tmp_path / "out/records.parquet").exists()
    found = quarantined(passage.result.quarantine)
    assert [one["id"] for one in found] == ids(data)[1:], "all of them, not the five that the message shows"
    assert all(one["failed"] == ["final answer"] and one["removed"] is False for one in found)
    fields = {key: value for key, value in found[0].items() if key not in ("failed", "removed")}
    assert fields == data.rows()[1]


def test_quarantine_takes_out_what_stops_and_goes_on_with_the_rest(tmp_path, caplog):
    changed = {
        1: {"response": "It is sweet."},
        4: {"response": "As in the reference answer: it is sweet."},
        6: {"response": f"{row(6)['response']} It is a small green fruit, and the"},  # only a warning
        7: {"input": KEY},
        9: {"instruction": LONG},
    }
    data = saved(tmp_path, rows(changed))
    with caplog.at_level(logging.WARNING):
        passage = pass_gate(
            data, GateSpec(on_fail="quarantine"), "fruit", tmp_path / "out", eval_texts=[LONG]
        )
    accepted, result = passage.accepted_or_stop(), passage.result
    gone = {1, 4, 7, 9}
    assert accepted.rows() == [one for i, one in enumerate(data.rows()) if i not in gone], "in their order"
    assert accepted.digest == result.digest != data.digest
    assert accepted.summary == {
        "records": 8,
        "decisions": {REWRITTEN: 8},
        "acceptance_rate": 1.0,
        "family": "choice",
        "dataset": "fruit",
        "before": data.digest,
        "contaminated": 1,
        "quarantined": 3,
        "digest": accepted.digest,
    }
    assert SelfData.open(tmp_path / "out").digest == accepted.digest
    assert (result.removed, result.records) == (4, 8)
    assert result.removed_by == {"final answer": 2, "task phrases": 1, "secrets": 1, "contamination": 1}
    assert failures(result) == ["truncated"]
    found = {one["id"]: one for one in quarantined(result.quarantine)}
    assert [(int(one, 16), found[one]["failed"], found[one]["removed"]) for one in found] == [
        (1, ["final answer"], True),
        (4, ["task phrases", "final answer"], True),
        (6, ["truncated"], False),
        (7, ["secrets"], True),
        (9, ["contamination"], True),
    ]
    assert "4 rows taken out" in caplog.text
    assert "final answer: 2" in explain(result)


def test_offending_rows_keep_their_number_when_others_went_before(tmp_path):
    data = saved(tmp_path, rows({2: {"instruction": LONG}, 5: {"response": "It is sweet."}}))
    result = pass_gate(data, GateSpec(), "fruit", tmp_path / "out", eval_texts=[LONG]).result
    (finding,) = result.failed()
    assert [(one["row"], one["id"]) for one in finding.offending] == [(5, f"{5:016x}")]


@pytest.mark.parametrize(
    ("settings", "failed"),
    [
        ({"min_records": 11}, "records"),
        ({"min_acceptance_rate": 0.9}, "acceptance rate"),
        ({"max_quarantine_rate": 0.1}, "rows left"),
    ],
)
def test_the_rest_must_still_be_good_enough(tmp_path, settings, failed):
    changed = {1: {"response": "It is sweet."}, 2: {"response": "It is sour."}, 5: kept(5), 6: kept(6)}
    data = saved(tmp_path, rows(changed))
    assert pass_gate(data, GateSpec(on_fail="quarantine"), "x", tmp_path / "good").accepted is not None
    passage = pass_gate(data, GateSpec(on_fail="quarantine", **settings), "x", tmp_path / "out")
    assert passage.accepted is None
    assert failures(passage.result) == [failed]
    assert not (tmp_path / "out/records.parquet").exists()
    assert [one["removed"] for one in quarantined(passage.result.quarantine)] == [True, True]


def test_only_a_failure_opens_the_quarantine(tmp_path):
    """Few refusals are allowed: nothing failed, so nothing goes."""
    data = saved(tmp_path, rows({5: said("I'm sorry, but I cannot say. The answer is B) kiwi.")}))
    passage = pass_gate(data, GateSpec(on_fail="quarantine", max_refusal_rate=0.1), "x", tmp_path / "out")
    assert passage.accepted_or_stop().digest == data.digest
    assert [one["failed"] for one in quarantined(passage.result.quarantine)] == [["refusals"]]


def test_severity_decides_what_goes(tmp_path):
    data = saved(tmp_path, rows({5: {"response": f"{row(5)['response']} Write to kiwi@fruit.org."}}))
    for severity, left in (("warn", 12), ("stop", 11)):
        spec = GateSpec(on_fail="quarantine", severity={"personal data": severity})
        assert pass_gate(data, spec, "x", tmp_path / severity).accepted_or_stop().summary["records"] == left


def test_secrets_are_masked_everywhere(tmp_path):
    data = saved(tmp_path, rows({5: {"response": f"Use {KEY} or write to kiwi@fruit.org."}}))
    passage = pass_gate(data, GateSpec(), "fruit", tmp_path / "out")
    assert not passage.result.passed
    texts = {file.name: file.read_text() for file in (tmp_path / "out").iterdir()}
    texts["message"] = explain(passage.result)
    for name, text in texts.items():
        assert KEY not in text, name
        assert "kiwi@fruit.org" not in text, name
        assert "[API key hf…]" in text, name
    assert "Use [API key hf…] or write to [e-mail ki…]." in texts["quarantine.jsonl"]


def test_documents_can_lie_elsewhere(tmp_path):
    data = saved(tmp_path, rows())
    pass_gate(data, GateSpec(), "fruit", tmp_path / "out", tmp_path / "documents")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "records.parquet",
        "summary.json",
        "provenance",
    }
    assert (tmp_path / "documents/data_docs.html").exists()


def test_everything_bad_leaves_nothing(tmp_path):
    data = saved(tmp_path, rows({i: {"response": "It is sweet."} for i in range(12)}))
    passage = pass_gate(data, GateSpec(on_fail="quarantine"), "x", tmp_path / "out")
    assert passage.accepted is None
    assert {"records", "rows left"} <= set(failures(passage.result))
    assert passage.result.records == 0


def test_the_verdict_is_the_one_of_validate(tmp_path):
    data = saved(tmp_path, rows({5: {"response": "It is sweet."}}))
    mine = pass_gate(data, GateSpec(), "fruit", tmp_path / "out").result
    plain = validate(data, GateSpec(), "fruit")
    assert mine.expectations == plain.expectations
    assert plain.quarantine is None
