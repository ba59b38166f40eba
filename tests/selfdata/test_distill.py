import json
import logging

import pytest
from pydantic import ValidationError

from regrow.errors import InputError
from regrow.files import canonical_digest
from regrow.records import Record
from regrow.selfdata import COLUMNS, REWRITTEN, SelfData, SelfDataSpec, distill
from regrow.selfdata.distill import _wall_clock
from regrow.selfdata.engines import TransformersEngine
from tests.tiny import tiny_checkpoint

SPEC = SelfDataSpec(max_new_tokens=12, batch_size=2, shard_size=3)


def records(n=8):
    return [
        Record(instruction=f"What is {i} + 1?", reference=f"It is {i + 1}.", answer=str(i + 1), source="sums")
        for i in range(n)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("distill") / "m")


def test_rows_follow_the_rule(model, tmp_path):
    given = records()
    data = distill(model, given, "math", SPEC, tmp_path / "out")
    rows = data.rows()
    assert [row["id"] for row in rows] == [record.id for record in given]
    assert all(list(row) == list(COLUMNS) for row in rows)
    for row, record in zip(rows, given, strict=True):
        assert row["reference"] == record.reference
        if row["decision"] != REWRITTEN:
            assert row["response"] == record.reference
            assert row["rewrite"] or row["decision"] in ("kept: empty", "kept: unfinished"), (
                "what was written stays"
            )
        else:
            assert row["response"] == row["rewrite"]
        assert row["response_tokens"] == len(row["response"].encode())  # one token a byte
        assert row["prompt_tokens"] > len(record.instruction)
        assert row["attempts"] == 1
    assert sum(data.summary["decisions"].values()) == data.summary["records"] == 8
    assert data.summary["shards"] == 3
    assert data.summary["model"] == model.digest
    assert data.summary["tokens"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"], "no work folder stays behind"


def test_open_rewrites_are_what_the_engine_wrote(model, tmp_path):
    # Any text is a rewrite in open data, so an unfinished one is the only reason to keep a reference.
    data = distill(model, records(4), "open", SPEC, tmp_path / "out")
    assert set(data.summary["decisions"]) <= {REWRITTEN, "kept: unfinished", "kept: empty"}


def test_an_accepted_rewrite_becomes_the_response(tmp_path):
    # A model whose every token ends the answer, and a template that puts the answer into its mouth.
    model = tiny_checkpoint(tmp_path / "m")
    config = json.loads((model.folder / "generation_config.json").read_text())
    config["eos_token_id"] = list(range(5, 261))
    (model.folder / "generation_config.json").write_text(json.dumps(config))
    (tmp_path / "t.txt").write_text("[user]\n{{instruction}} {{reference}}\n[assistant]\nThe answer is 3.\n")
    spec = SPEC.model_copy(update={"template": str(tmp_path / "t.txt")})
    rows = distill(model, records(5), "math", spec, tmp_path / "out").rows()
    accepted = [row for row in rows if row["decision"] == REWRITTEN]
    assert [row["answer"] for row in accepted] == ["3"], "only the true answer is accepted"
    assert {row["decision"] for row in rows if row["answer"] != "3"} <= {
        "kept: answer differs",
        "kept: empty",
    }
    for row in accepted:
        assert row["response"].startswith("The answer is 3.")


def test_the_same_settings_give_the_same_digest(model, tmp_path):
    spec = SPEC.model_copy(update={"temperature": 1.0, "attempts": 2})
    a = distill(model, records(), "math", spec, tmp_path / "a")
    b = distill(model, records(), "math", spec, tmp_path / "b")
    assert a.digest == b.digest == canonical_digest(a.rows())
    assert a.summary["spec"]["attempts"] == 2
    assert {row["attempts"] for row in a.rows()} <= {1, 2}
    assert [row["seed"] for row in a.rows() if row["attempts"] == 1] == [-1] * sum(
        row["attempts"] == 1 for row in a.rows()
    ), "the first of several tries is greedy"
    sampled = [row["seed"] for row in a.rows() if row["attempts"] == 2]
    assert len(set(sampled)) == len(sampled) > 0


def test_what_more_tries_are_worth_is_told(model, tmp_path):
    """Every rewrite of open data that comes to its end is accepted, and some end only when sampled."""
    spec = SPEC.model_copy(update={"temperature": 2.0, "attempts": 6, "max_new_tokens": 80})
    data = distill(model, records(), "open", spec, tmp_path / "out")
    by_attempt = data.summary["acceptance_by_attempt"]
    assert len(by_attempt) == 6
    assert by_attempt == sorted(by_attempt)
    assert by_attempt[-1] == data.summary["acceptance_rate"] > by_attempt[0]


def test_seconds_are_those_in_which_something_was_made():
    headers = [
        {"began": 100.0, "seconds": 5.0},
        {"began": 103.0, "seconds": 4.0},
        {"began": 900.0, "seconds": 1.0},
    ]
    assert _wall_clock(headers) == 8.0
    assert _wall_clock([]) == 0.0


def test_open_reads_back_and_notices_changes(model, tmp_path):
    data = distill(model, records(), "math", SPEC, tmp_path / "out")
    assert SelfData.open(tmp_path / "out") == data
    assert list(data.table().columns) == list(COLUMNS)
    assert len(data.table()) == 8
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    (tmp_path / "out/summary.json").write_text(json.dumps(summary | {"digest": "0" * 64}))
    with pytest.raises(InputError, match=r"not what summary\.json describes"):
        SelfData.open(tmp_path / "out")
    (tmp_path / "out/records.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        SelfData.open(tmp_path / "out")
    with pytest.raises(InputError, match="no such file"):
        SelfData.open(tmp_path / "nowhere")


def test_finished_shards_need_no_model(model, tmp_path, monkeypatch):
    first = distill(model, records(), "math", SPEC, tmp_path / "a", tmp_path / "work")

    def never(*args, **kwargs):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(TransformersEngine, "__init__", never)
    again = distill(model, records(), "math", SPEC, tmp_path / "b", tmp_path / "work")
    assert again.digest == first.digest
    assert again.summary["shards_reused"] == 3
    assert again.summary["tokens"] == first.summary["tokens"]


def test_a_finished_set_is_not_made_again(model, tmp_path, monkeypatch):
    first = distill(model, records(), "math", SPEC, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(TransformersEngine, "__init__", lambda *_: pytest.fail("the model was loaded"))
        assert distill(model, records(), "math", SPEC, tmp_path / "out") == first
    other = distill(model, records(), "math", SPEC.model_copy(update={"seed": 1}), tmp_path / "out")
    assert other.summary["seed"] == 1
    (tmp_path / "out/records.parquet").write_bytes(b"damaged")
    assert distill(model, records(), "math", SPEC, tmp_path / "out").digest == first.digest


@pytest.mark.parametrize(
    "change",
    [
        {"max_new_tokens": 11},
        {"seed": 1},
        {"use_reference": False},
        {"template": "math-fresh", "use_reference": False},
        {"banned_phrases": ("x",)},
        {"shard_size": 4},
    ],
)
def test_another_configuration_uses_no_old_shard(model, tmp_path, change):
    distill(model, records(4), "math", SPEC, tmp_path / "a", tmp_path / "work")
    other = distill(
        model, records(4), "math", SPEC.model_copy(update=change), tmp_path / "b", tmp_path / "work"
    )
    assert other.summary["shards_reused"] == 0


def test_another_answer_check_uses_no_old_shard(model, tmp_path, monkeypatch):
    distill(model, records(4), "math", SPEC, tmp_path / "a", tmp_path / "work")
    monkeypatch.setattr("regrow.selfdata.rule.version", lambda: "another")
    again = distill(model, records(4), "math", SPEC, tmp_path / "b", tmp_path / "work")
    assert again.summary["shards_reused"] == 0


def test_another_model_family_or_template_text_uses_no_old_shard(model, tmp_path):
    template = tmp_path / "t.txt"
    template.write_text("[user]\n{{instruction}} {{reference}}")
    spec = SPEC.model_copy(update={"template": str(template)})
    work = tmp_path / "work"
    distill(model, records(3), "math", spec, tmp_path / "a", work)
    other = tiny_checkpoint(tmp_path / "other", seed=1)
    assert distill(other, records(3), "math", spec, tmp_path / "a", work).summary["shards_reused"] == 0
    assert distill(model, records(3), "text", spec, tmp_path / "a", work).summary["shards_reused"] == 0
    template.write_text("[user]\n{{instruction}}: {{reference}}")
    assert distill(model, records(3), "math", spec, tmp_path / "a", work).summary["shards_reused"] == 0


def test_a_longer_set_uses_the_shards_of_its_start(model, tmp_path):
    distill(model, records(6), "math", SPEC, tmp_path / "a", tmp_path / "work")
    more = distill(model, records(8), "math", SPEC, tmp_path / "b", tmp_path / "work")
    assert more.summary["shards_reused"] == 2
    assert more.digest == distill(model, records(8), "math", SPEC, tmp_path / "c").digest


@pytest.mark.parametrize(
    "damage", [b"", b'{"tokens": 1', b'{"tokens": 1, "seconds": 2}\n{"id": "x"}\n', b"[]\n1\n"]
)
def test_a_damaged_shard_is_made_again(model, tmp_path, damage, caplog):
    good = distill(model, records(3), "math", SPEC, tmp_path / "a", tmp_path / "work")
    (shard,) = (tmp_path / "work").iterdir()
    shard.write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        again = distill(model, records(3), "math", SPEC, tmp_path / "b", tmp_path / "work")
    assert again.digest == good.digest
    assert "generated again" in caplog.text


def test_a_prompt_that_does_not_fit_keeps_its_reference(tmp_path):
    model = tiny_checkpoint(tmp_path / "m", max_position_embeddings=400)
    long = Record(instruction="x" * 500, reference="It is 1.", answer="1", source="s")
    rows = distill(model, [long, *records(2)], "math", SPEC, tmp_path / "out").rows()
    assert rows[0]["decision"] == "kept: prompt too long"
    assert rows[0]["response"] == "It is 1."
    assert rows[1]["decision"] != "kept: prompt too long"


def test_records_must_be_there_and_differ(model, tmp_path):
    with pytest.raises(InputError, match="no records"):
        distill(model, [], "math", SPEC, tmp_path / "out")
    with pytest.raises(InputError, match="occurs twice"):
        distill(model, records(1) * 2, "math", SPEC, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_chat_template(tmp_path):
    model = tiny_checkpoint(tmp_path / "m")
    (model.folder / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        distill(model, records(2), "math", SPEC, tmp_path / "out")


def test_several_attempts_are_sampled_without_being_told():
    assert SelfDataSpec(attempts=3).temperature == 0.7
    assert SelfDataSpec(attempts=3, temperature=1.0).temperature == 1.0
    assert SelfDataSpec().temperature == 0.0


@pytest.mark.parametrize(
    "wrong", [{"attempts": 2, "temperature": 0}, {"top_p": 0}, {"max_new_tokens": 0}, {"nonsense": 1}]
)
def test_impossible_settings(wrong):
    with pytest.raises(ValidationError):
        SelfDataSpec(**wrong)
