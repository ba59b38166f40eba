import json
from pathlib import Path

import pytest

from regrow.errors import InputError
from regrow.tune.data import encode, load_examples, order, read_rows, write_examples
from regrow.tune.recipe import Sft
from tests.tiny import tiny_tokenizer

ROWS = [
    {"instruction": "Name a colour.", "input": "", "response": "blue"},
    {"instruction": "Add.", "input": "1 and 2", "response": "The answer is 3."},
]


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_loss_is_on_the_response_and_its_end():
    tokenizer = tiny_tokenizer()
    examples = encode(ROWS, tokenizer, Sft())
    for tokens, prompt, row in zip(examples.tokens, examples.prompts, ROWS, strict=True):
        learned = tokenizer.decode(tokens[prompt:])
        assert learned == f"{row['response']}<|im_end|>\n"
        seen = tokenizer.decode(tokens[:prompt])
        assert row["instruction"] in seen and row["input"] in seen
        assert seen.endswith("<|im_start|>assistant\n")


def test_loss_on_all_tokens_where_asked():
    assert encode(ROWS, tiny_tokenizer(), Sft(loss_on="all")).prompts == [0, 0]


def test_template_that_closes_the_prompt_differently():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }};{% endfor %}"
        "{% if add_generation_prompt %}[assistant]<think></think>{% endif %}"
    )
    examples = encode(ROWS[:1], tokenizer, Sft())
    assert tokenizer.decode(examples.tokens[0][examples.prompts[0] :]) == "blue;"


def test_template_without_the_assistant_is_an_error():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(InputError, match="leaves out the assistant"):
        encode(ROWS, tokenizer, Sft())


def test_long_examples_are_cut_or_dropped_and_counted(caplog):
    tokenizer = tiny_tokenizer()
    rows = [*ROWS, {"instruction": "Go on.", "input": "", "response": "x" * 500},
            {"instruction": "y" * 500, "input": "", "response": "short"}]  # fmt: skip
    cut = encode(rows, tokenizer, Sft(max_length=120))
    assert (len(cut), cut.truncated, cut.dropped) == (3, 1, 1)
    assert max(map(len, cut.tokens)) == 120
    assert "2 of 4 examples are longer" in caplog.text
    dropped = encode(rows, tokenizer, Sft(max_length=120, too_long="drop"))
    assert (len(dropped), dropped.truncated, dropped.dropped) == (2, 0, 2)
    assert dropped.summary()["dropped"] == 2
    assert cut.rows == [1, 2, 3] and dropped.rows == [1, 2]
    with pytest.raises(InputError, match=r"recipe\.max_length: no example fits in 8 tokens"):
        encode(rows, tokenizer, Sft(max_length=8))


def test_examples_survive_the_file(tmp_path: Path):
    examples = encode(ROWS, tiny_tokenizer(), Sft())
    write_examples(examples, tmp_path / "e.jsonl")
    again = load_examples(tmp_path / "e.jsonl")
    assert again == examples and again.digest == examples.digest
    other = encode(ROWS[:1], tiny_tokenizer(), Sft())
    assert other.digest != examples.digest


def test_columns_follow_the_recipe(tmp_path: Path):
    rows = [{"instruction": "a", "response": "mine", "reference": "theirs"}]
    file = write(tmp_path / "d.jsonl", rows)
    assert read_rows(file, Sft())[0] == {"instruction": "a", "input": "", "response": "mine"}
    assert read_rows(file, Sft(responses="reference"))[0]["response"] == "theirs"


def test_a_selfdata_folder_is_read(tmp_path: Path):
    import pandas as pd

    pd.DataFrame(ROWS).to_parquet(tmp_path / "records.parquet")
    assert read_rows(tmp_path, Sft())[1]["input"] == "1 and 2"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"prompt": "a", "answer": "b"}],
            "no column instruction and no column response .it has: answer, prompt",
        ),
        ([{"instruction": "a", "reference": "b"}], "no column response"),
        ([ROWS[0], {"instruction": "a", "response": "  "}], "row 2: response is empty"),
        ([ROWS[0], {"instruction": None, "response": "b"}], "row 2: instruction is empty"),
        ([], "empty"),
    ],
)
def test_bad_rows_name_file_and_place(tmp_path: Path, rows, message):
    file = write(tmp_path / "d.jsonl", rows)
    with pytest.raises(InputError, match=message) as error:
        read_rows(file, Sft())
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_order_visits_every_example_once_an_epoch():
    lengths = [(i * 37) % 101 + 5 for i in range(104)]
    once = order(lengths, Sft(batch_size=4))
    assert sorted(once) == list(range(104))
    twice = order(lengths, Sft(batch_size=4, epochs=2))
    assert sorted(twice) == sorted(list(range(104)) * 2)
    assert len(order(lengths, Sft(batch_size=4, epochs=0.5))) == 52
    assert once == order(lengths, Sft(batch_size=4)) != order(lengths, Sft(batch_size=4, seed=1))


def test_no_step_is_smaller_than_the_others():
    turns = order([7] * 103, Sft(batch_size=8))
    assert len(turns) == 13 * 8 and len(set(turns[:96])) == 96
    assert sorted(order([7] * 103, Sft(batch_size=8, epochs=8))) == sorted(list(range(103)) * 8)
    assert len(order([7] * 3, Sft(batch_size=8))) == 8
    assert len(order([7] * 10, Sft(batch_size=12, max_steps=5))) == 60


def test_a_budget_of_tokens_ends_with_the_step_that_reaches_it():
    lengths = [(i * 37) % 101 + 5 for i in range(50)]
    turns = order(lengths, Sft(batch_size=4, max_tokens=10_000))
    tokens = [lengths[i] for i in turns]
    assert sum(tokens) >= 10_000 > sum(tokens[:-4]) and len(turns) % 4 == 0


def test_how_a_step_is_divided_does_not_change_what_is_in_it():
    lengths = [(i * 37) % 101 + 5 for i in range(50)]
    assert (
        order(lengths, Sft(micro_batch_size=2)) == order(lengths, Sft()) == order(lengths, Sft(packing=True))
    )


def test_order_puts_similar_lengths_together():
    lengths = [(i * 7919) % 500 + 10 for i in range(400)]

    def padded(turns: list[int]) -> int:
        batches = [turns[i : i + 8] for i in range(0, len(turns), 8)]
        return sum(len(b) * max(lengths[i] for i in b) for b in batches)

    turns = order(lengths, Sft(batch_size=8))
    assert padded(turns) < 1.06 * sum(lengths) < padded(list(range(400)))
    firsts = [lengths[turns[i]] for i in range(0, 400, 8)]
    assert firsts != sorted(firsts) and firsts != sorted(firsts, reverse=True)
